"""Errors a user of `visavis data make --from-videos` can meet."""

from __future__ import annotations

from engine.errors import DataError


class FaceModelMissing(DataError):
    """The landmark model that finds faces in films is not on this machine, or mediapipe is not."""

    code = "face_model_missing"


class NoVideosError(DataError):
    """The folder holds no file that could be a film."""

    code = "no_videos"


class VideoUnusable(DataError):
    """One film cannot be read; the run goes on without it."""

    code = "video_unusable"
