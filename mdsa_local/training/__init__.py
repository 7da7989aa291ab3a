"""Making the encoder, the judge and the bundled SLM. What needs torch is installed by ``pip install mdsa-local[train]``.

The small model, one command a step (``mdsa train``, docs/training.md):

- :mod:`~mdsa_local.training.recipe`: everything that decides what it becomes, read from ``recipes/nano.yaml``.
- :mod:`~mdsa_local.training.workshop`: the folder of a run, where each step leaves what the next one takes.
- :mod:`~mdsa_local.training.sources`: the public data sets, their licences, and how they are read.
- :mod:`~mdsa_local.training.grounded`, :mod:`~mdsa_local.training.extracts`: examples, made without end from templates and prose.
- :mod:`~mdsa_local.training.tokenizer`, :mod:`~mdsa_local.training.nano`: tokenizer and model.
- :mod:`~mdsa_local.training.feed`, :mod:`~mdsa_local.training.trainer`: batches, and the training that goes on where it was stopped.
- :mod:`~mdsa_local.training.checkpoint`, :mod:`~mdsa_local.training.curve`: what survives a kill; losses and their picture.
- :mod:`~mdsa_local.training.export_gguf`, :mod:`~mdsa_local.training.card`: GGUF in F32, INT8 and INT4, and the model.yaml beside it.

The encoder (``scripts/make_encoder.py``):

- :mod:`~mdsa_local.training.corpus`, :mod:`~mdsa_local.training.documentation`, :mod:`~mdsa_local.training.written`: its texts and questions.
- :mod:`~mdsa_local.training.utterances`: utterances of many domains, written for it; read, as the articles are, with ``marked``.
- :mod:`~mdsa_local.training.distil`, :mod:`~mdsa_local.training.contrast`, :mod:`~mdsa_local.training.gather`: distillation into a TinyBERT, and its
  second and third run.
- :mod:`~mdsa_local.training.export_encoder`: ONNX export with optimum, INT8.
- :mod:`~mdsa_local.training.export_router`: any encoder or fine-tuned classifier as a routing model, ``mdsa router export``.

The judge (``scripts/make_judge.py``):

- :mod:`~mdsa_local.training.articles`, :mod:`~mdsa_local.training.groups`: the articles written for it, and the groups it learns from.
- :mod:`~mdsa_local.training.judge`: the training.
- :mod:`~mdsa_local.training.export_judge`: ONNX export with optimum, INT8.
- :mod:`~mdsa_local.training.answerable`: what its scores mean, the odds that documents answer.

For a user's own domain:

- :mod:`~mdsa_local.training.adapter`: a LoRA adapter for a domain's model, ``mdsa train adapter``; its parts are ``pairs``, ``lora``,
  ``export_adapter``, ``convert`` and ``measuring``.
"""
