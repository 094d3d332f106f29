"""Requests that do not parse: read as empty ones, which every method refuses with a name of the protocol.

Left to grpc, each would be answered with the name of an exception class, and fill the log with its traceback.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from diffusion_at_home.rpc import coordinator_pb2 as pb

_EMPTY: Final = {
    "Join": pb.JoinRequest,
    "Lease": pb.LeaseRequest,
    "Heartbeat": pb.HeartbeatRequest,
    "SubmitOffset": pb.SubmitOffsetRequest,
    "Submit": pb.SubmitRequest,
    "Release": pb.ReleaseRequest,
}

Handler = Any
"""grpc's RpcMethodHandler, whose kinds its types do not tell apart."""


class LenientParser(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Puts itself between grpc and the service."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """See grpc."""
        handler = await continuation(handler_call_details)
        empty = _EMPTY.get(handler_call_details.method.rpartition("/")[2])
        if handler is None or empty is None:
            return handler
        known = self._handlers.get(handler_call_details.method)
        if known is None:
            make = (
                grpc.stream_unary_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_unary_rpc_method_handler
            )
            known = make(
                handler.stream_unary if handler.request_streaming else handler.unary_unary,
                request_deserializer=_parser(empty),
                response_serializer=handler.response_serializer,
            )
            self._handlers[handler_call_details.method] = known
        return known


def _parser(kind: Any) -> Callable[[bytes], Any]:
    def parse(data: bytes) -> Any:
        try:
            return kind.FromString(data)
        except DecodeError:
            return kind()

    return parse
