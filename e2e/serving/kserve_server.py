"""Starts KServe's sklearnserver as its own __main__ does, but on 127.0.0.1: kserve 0.21.0 has 0.0.0.0 fixed.

PYTHONPATH must hold python/sklearnserver and python/storage of github.com/kserve/kserve v0.20.0.
"""

import runpy

import uvicorn

every_interface = uvicorn.Config.__init__


def loopback(self, *args, **kwargs):
    kwargs["host"] = "127.0.0.1"
    every_interface(self, *args, **kwargs)


uvicorn.Config.__init__ = loopback
runpy.run_module("sklearnserver", run_name="__main__", alter_sys=True)
