"""Films that a user owns, as training clips: the shards of rendered ones, with what can be known about them."""

from training.data.videos.config import Gates, VideoConfig
from training.data.videos.make import VideosReport, make_from_videos

__all__ = ["Gates", "VideoConfig", "VideosReport", "make_from_videos"]
