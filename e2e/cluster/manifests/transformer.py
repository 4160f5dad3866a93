"""A transformer on KServe's own library (kserve.Model), which calls the predictor that KServe names to it.

KServe's image of one (python/custom_transformer) is about pictures and needs torch; this one is about the story's numbers.
"""

import argparse

from kserve import Model, ModelServer, model_server


class Transformer(Model):
    def __init__(self, name):
        super().__init__(name)
        self.ready = True

    def preprocess(self, payload, headers=None):
        return {"instances": [[float(x) for x in row] for row in payload["instances"]]}

    def postprocess(self, response, headers=None):
        return response | {"transformed": True}


args, _ = argparse.ArgumentParser(parents=[model_server.parser]).parse_known_args()
ModelServer().start([Transformer(args.model_name)])
