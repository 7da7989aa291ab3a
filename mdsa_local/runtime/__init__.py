"""Runtimes: what turns messages into text.

In: a model reference such as ``nano``, ``models/my.gguf`` or ``ollama://llama3.2:1b``, and :class:`~mdsa_local.runtime.backend.Message` values.
Out: pieces of text, then exactly one :class:`~mdsa_local.runtime.backend.Finished`.

    backend.py        the contract, model references and the registry of backends
    manager.py        ModelManager: loads each model once, keeps all of them inside one memory budget
    slots.py          what it knows of each model; lending.py is what callers get of one that may be unloaded at any time
    residency.py      which models to unload, as a pure decision
    catalog.py        names of models -> files; offers.py what can be pulled, and what of it fits
    shelf.py          models pulled, added, quantised and removed; download.py fetches, metadata.py reads what a file says of itself
    gguf.py           the header of a GGUF file and the memory it will need
    llamacpp.py       llama.cpp in this process: text in, requests out; chat_template.py and stopping.py treat its text
    engine.py         the thread that owns a model and writes many answers at once; answering.py is one of them, prefixes.py what they share
    native.py         llama.cpp's C interface: model, context, batch; library.py loads it and reads its log, sampler.py chooses tokens
    stress.py         whether many callers at once get what each would get alone
    synthetic.py      GGUF files with random weights, to measure with
    ollama.py         an Ollama daemon
    openai.py         a server that speaks OpenAI's chat API; wire.py is what the two share
    transformers.py   Hugging Face transformers in this process, an extra
    structured.py     answers by a JSON schema; schema_grammar.py makes a grammar of it, grammar.py writes it for llama.cpp or follows it
    hardware.py       what this machine is

A backend is one module with ``estimate_bytes`` and ``open_backend`` and one line in ``backend.BACKENDS``.
Importing this package, or any module in it, loads neither llama_cpp nor ollama nor torch.
"""
