"""KServe's own client: V1 and V2 over REST, and V2 over gRPC. Arguments: base URL, key, gRPC target, gRPC authority."""
import asyncio
import sys

import grpc
import httpx
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig

base, key, target, authority = sys.argv[1:]
rows = [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]
headers = {"authorization": "Bearer " + key} if key else {}


def request(model):
    tensor = InferInput(name="x", shape=[2, 4], datatype="FP64")
    tensor.set_data_from_numpy(__import__("numpy").array(rows), binary_data=False)
    return InferRequest(model_name=model, infer_inputs=[tensor])


async def rest():
    try:
        v1 = await InferenceRESTClient(RESTConfig(protocol="v1", retries=0)).infer(base, {"instances": rows}, model_name="sklearn-iris", headers=headers)
        print("v1:", v1)
        v2 = await InferenceRESTClient(RESTConfig(protocol="v2", retries=0)).infer(base, request("sklearn-iris"), model_name="sklearn-iris", headers=headers)
        print("v2:", v2.outputs[0].data)
    except httpx.HTTPStatusError as e:
        print("refused:", e.response.status_code)


async def rpc():
    client = InferenceGRPCClient(target, channel_args=[("grpc.default_authority", authority), ("grpc.enable_http_proxy", 0)], retries=0)
    try:
        print("grpc ready:", await client.is_server_live(headers=[(k, v) for k, v in headers.items()]))
    except grpc.RpcError as e:
        print("grpc refused:", e.code())


asyncio.run(rest())
asyncio.run(rpc())
