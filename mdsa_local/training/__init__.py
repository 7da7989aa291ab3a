"""What needs torch: making the encoder and the bundled SLM. Installed by ``pip install mdsa-local[train]``.

Each step is a module that runs by itself, resumes from its checkpoint, and uses CUDA when there is one:

- :mod:`~mdsa_local.training.corpus`: texts for the encoder, read from public data sets.
- :mod:`~mdsa_local.training.distil`: sentence-encoder distillation into a TinyBERT.
- :mod:`~mdsa_local.training.export_encoder`: ONNX export with optimum, INT8.
- :mod:`~mdsa_local.training.export_router`: any encoder or fine-tuned classifier as a routing model, ``mdsa router export``.
- :mod:`~mdsa_local.training.adapter`: a LoRA adapter for a domain's model, ``mdsa train adapter``; its parts are ``pairs``, ``lora``,
  ``export_adapter``, ``convert`` and ``measuring``.
- :mod:`~mdsa_local.training.grounded`: grounded question-answering examples for the SLM.
- :mod:`~mdsa_local.training.nano`: tokenizer, model and training of the SLM.
- :mod:`~mdsa_local.training.export_gguf`: the SLM as GGUF in F16, Q8_0 and Q4_0.
"""
