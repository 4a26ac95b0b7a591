"""Processes that return, take and raise values that are hard to send."""

from __future__ import annotations

import os
import threading
from typing import Any

import requests
from pydantic import BaseModel, ValidationError

from stbass.process import Process, ProcessContext
from tests.support.travellers import Rich, rich

SECRET = "hunter2-0123"

if os.environ.get("VALUED_ON") == "worker":

    class Plan(BaseModel):
        """Has another field on workers."""

        title: str
        steps: int

else:

    class Plan(BaseModel):  # type: ignore[no-redef]
        title: str
        owner: str = "nobody"


@Process
async def everything(ctx: ProcessContext) -> Rich:
    return rich()


@Process
async def badly_planned(ctx: ProcessContext) -> Any:
    ctx.checkpoint({"step": 3, "token": SECRET})
    try:
        Plan(title=[1])  # type: ignore[arg-type,call-arg,unused-ignore]
    except ValidationError as error:
        raise RuntimeError("the answer does not fit") from error


@Process
async def locked(ctx: ProcessContext) -> Any:
    ctx.checkpoint({"step": 3})
    return {"answer": "forty-two", "password": SECRET, "lock": threading.Lock()}


@Process
async def long_history(ctx: ProcessContext) -> Any:
    ctx.checkpoint({"step": 3})
    return [{"role": "user", "content": "word " * 200, "api_key": SECRET} for _ in range(20_000)]


@Process
async def planned(ctx: ProcessContext) -> Any:
    return {"plan": Plan(title="a", steps=3), "rest": 1}  # type: ignore[call-arg,unused-ignore]


class Steps(Process):
    """Says how many steps a plan has."""

    def __init__(self, plan: Any) -> None:
        self.plan = plan

    async def run(self, ctx: ProcessContext) -> Any:
        return self.plan.steps


class Refused(Exception):
    def __init__(self, message: str, response: Any) -> None:
        super().__init__(message)
        self.response = response
        self.status_code = response.status_code


@Process
async def refused(ctx: ProcessContext) -> Any:
    ctx.progress(1, 2, f"asking with api_key={SECRET}")
    response = requests.Response()
    response.status_code, response.url = 401, f"https://h/?api_key={SECRET}"
    response.headers.update({"Set-Cookie": f"sid={SECRET}", "x-request-id": "r1"})
    raise Refused(f"refused with Authorization: Bearer {SECRET}", response)
