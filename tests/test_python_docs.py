"""docs/python.md tells what is there; its web service does what it says. (Its other programs are run by test_readme.)"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_args

import pytest

from mdsa_local import TinyBERTOrchestrator, errors, types
from mdsa_local.errors import BusyError, MDSAError
from tests.test_orchestrator import FLAT

DOCS = (Path(__file__).parent.parent / "docs" / "python.md").read_text(encoding="utf-8")
QUESTION = "How long does a dispute take?"


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a header row."""
    table = DOCS.partition(heading)[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines()[2:]]


def test_it_lists_every_error_with_its_status() -> None:
    told = {cells[0].strip("`"): (int(cells[1]), cells[2] == "yes") for cells in rows("| error | status | retryable | when |")}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MDSAError) and kind is not MDSAError]
    assert told == {kind.__name__: (kind.status, kind.retryable) for kind in kinds}


def test_it_lists_every_key_and_status() -> None:
    assert {name for cells in rows("| key | what it is |") for name in re.findall(r"`(\w+)`", cells[0])} == FLAT
    assert {cells[0].strip("`") for cells in rows("| `status` | what it means |")} == set(get_args(types.Status))


class Response(SimpleNamespace):
    """What Starlette's responses are made of."""

    def __init__(self, content: Any, status: int = 200, headers: Any = None, media_type: str = "") -> None:
        super().__init__(content=content, status=status, headers=headers)


class Application:
    """The decorators of FastAPI that the example uses."""

    def __init__(self, lifespan: Any) -> None:
        self.lifespan, self.state = lifespan, SimpleNamespace()

    def get(self, path: str) -> Any:
        return lambda function: function

    exception_handler = get


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, product: TinyBERTOrchestrator) -> Iterator[Any]:
    """The example, on stand-ins for FastAPI and on the product; what goes through it is real."""
    fastapi, responses = ModuleType("fastapi"), ModuleType("fastapi.responses")
    vars(fastapi).update(FastAPI=Application, Request=object)
    vars(responses).update(JSONResponse=Response, StreamingResponse=Response)
    monkeypatch.setitem(sys.modules, "fastapi", fastapi)
    monkeypatch.setitem(sys.modules, "fastapi.responses", responses)
    (program,) = re.findall(r"```py\n(.*?)```", DOCS, re.DOTALL)
    made: dict[str, Any] = {}
    exec(compile(program, "app.py", "exec"), made)
    made["app"].state.mdsa = product
    yield SimpleNamespace(**made)


def request(app: Any, leaves_after: int = 10_000) -> Any:
    """A request whose client leaves when so many events were told."""
    asked = iter(range(leaves_after))

    async def gone() -> bool:
        return next(asked, None) is None

    return SimpleNamespace(app=app.app, is_disconnected=gone)


def test_its_web_service_streams_an_answer(app: Any, product: TinyBERTOrchestrator) -> None:
    async def told() -> list[dict[str, Any]]:
        response = await app.ask(request(app), QUESTION, "finance")
        return [json.loads(line) async for line in response.content]

    *pieces, last = asyncio.run(told())
    assert set(last["answer"]) == FLAT
    assert "".join(piece.get("token", "") for piece in pieces).strip() == last["answer"]["response"]


def test_its_web_service_stops_when_the_client_leaves(app: Any, product: TinyBERTOrchestrator) -> None:
    before = product.get_stats()["by_status"].get("cancelled", 0)

    async def told() -> list[str]:
        response = await app.ask(request(app, 5), QUESTION, "finance")
        return [line async for line in response.content]

    assert 1 <= len(asyncio.run(told())) < 5
    assert product.get_stats()["by_status"]["cancelled"] == before + 1


def test_its_web_service_tells_errors_by_their_status(app: Any) -> None:
    async def failed(query: str, domain: str | None) -> Any:
        try:
            await app.ask(request(app), query, domain)
        except MDSAError as error:
            return await app.failed(request(app), error)

    for query, domain, status in ((" ", None, 400), ("hello", "finanse", 404)):
        response = asyncio.run(failed(query, domain))
        assert response.status == status
        assert set(response.content["error"]) == {"code", "message", "hint", "retryable"}
    busy = asyncio.run(app.failed(request(app), BusyError("full", "later", 3.0)))
    assert (busy.status, busy.headers) == (429, {"Retry-After": "3"})
