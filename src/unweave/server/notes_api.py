"""Addresses of what people add to graphs."""

from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from ..page.template import to_bytes
from . import annotations as notes
from .answers import StrictRoute, answer, refusal
from .graphs_api import PROBLEMS
from .state import Asked

router = APIRouter(prefix="/api/graphs/{slug}/annotations", route_class=StrictRoute, responses=PROBLEMS)


class Save(BaseModel):
    """Annotations to be saved."""

    model_config = ConfigDict(strict=True)
    annotations: notes.Annotations


@router.get("")
def read_annotations(request: Request, asked: Asked) -> Response:
    """What is saved, and its revision."""
    saved = notes.read(asked.path, asked.graph)
    return answer(request, to_bytes(saved._asdict()), tag=str(saved.revision))


@router.put("")
def save_annotations(asked: Asked, wanted: Save, if_match: Annotated[str | None, Header()] = None) -> Response:
    """Replace the revision that `If-Match` names; 409 with what is saved now if that is another one."""
    if if_match is None:
        raise HTTPException(428, 'say which revision is replaced: If-Match: "0" for the first')
    given = if_match.strip().removeprefix("W/").strip('"')
    if not (given.isascii() and given.isdecimal() and len(given) < 16):
        raise HTTPException(400, f"If-Match is {if_match[:40]!r}; give the revision, a number")
    done, saved = notes.save(asked.path, int(given), wanted.annotations.model_dump(exclude_unset=True), asked.graph)
    if not done:
        return refusal(
            409, f"revision {saved.revision} was saved in between; merge with it and save again", **saved._asdict()
        )
    return Response(
        to_bytes({"revision": saved.revision}), media_type="application/json", headers={"ETag": f'"{saved.revision}"'}
    )
