"""Photographic portraits animated as puppets: a fitted face, the photograph as its texture, a modelled mouth."""

from training.data.puppets.portraits import list_portraits
from training.data.puppets.subject import PuppetSubject

__all__ = ["PuppetSubject", "list_portraits"]
