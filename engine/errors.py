"""Every fault that a caller can cause or meet, as one tree.

    AvatarError
    ├── ArgumentError              bad_argument
    │   ├── UnknownExpressionError unknown_expression
    │   ├── PipelinePlanError      bad_pipeline_plan
    │   └── StateTrackError        bad_state_track
    ├── PortraitError
    │   ├── NotAnImageError        not_an_image
    │   ├── ImageTooLargeError     image_too_large
    │   ├── ImageTooSmallError     image_too_small
    │   ├── NoFaceError            no_face
    │   ├── SeveralFacesError      several_faces
    │   └── FaceTooSmallError      face_too_small
    ├── MediaError
    │   ├── UnreadableMediaError   unreadable_media
    │   ├── NoAudioStreamError     no_audio_stream
    │   ├── AudioEmptyError        audio_empty
    │   ├── AudioTooLongError      audio_too_long
    │   └── AudioFormatError       audio_format
    ├── FileError
    │   ├── FileMissingError       file_missing
    │   ├── UnreadableFileError    unreadable_file
    │   ├── OutputFolderMissingError  output_folder_missing
    │   └── OutputNotWritableError output_not_writable
    ├── BundleError
    │   ├── BundleMissingError     bundle_missing
    │   └── BundleCorruptError     bundle_corrupt
    ├── ArtefactError
    │   ├── ArtefactCorruptError   artefact_corrupt
    │   └── ArtefactStaleError     artefact_stale
    ├── BackendError
    │   ├── BackendUnavailableError  backend_unavailable
    │   │   └── EngineBuildError   engine_build
    │   ├── BackendFailedError     backend_failed           (retryable)
    │   └── ExtraMissingError      extra_missing
    ├── SessionError
    │   ├── SessionClosedError     session_closed
    │   └── AudioBufferFullError   audio_buffer_full        (retryable)
    ├── WorkerError
    │   ├── EngineFullError        engine_full              (retryable)
    │   ├── SlotBusyError          slot_busy                (retryable)
    │   ├── WorkerLostError        worker_lost              (retryable)
    │   ├── StageLostError         stage_lost               (retryable)
    │   └── WorkerBrokenError      worker_broken
    └── DataError
        ├── ShardDamagedError      shard_damaged
        ├── DataSettingsError      data_settings
        ├── SubjectsFailedError    subjects_failed
        ├── CastDamagedError       cast_damaged
        ├── StreamLostError        stream_lost
        └── WeightsDamagedError    weights_damaged

The server's own lie below ServerError (apps/server/errors.py, refusals.py), with the codes of docs/protocol.md; the
client's below ClientError (apps/client/errors.py), those of text to speech below SpeechError (apps/speech.py).

`code` is stable: programs may depend on it, the wording of messages may change. `retryable` says whether the same call
may succeed later without anything being changed. `exit_code` is what the command line returns.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_USAGE = 2
EXIT_INPUT = 3
EXIT_OUTPUT = 4
EXIT_MODEL = 5
EXIT_INTERRUPTED = 130


class AvatarError(Exception):
    """Root of the tree. The message says what is wrong and what to do about it."""

    code: ClassVar[str] = "avatar_error"
    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1


class ArgumentError(AvatarError, ValueError):
    """A parameter is outside what is allowed."""

    code = "bad_argument"
    exit_code = EXIT_USAGE


class UnknownExpressionError(ArgumentError):
    """An expression name is not one of `engine.types.EXPRESSIONS`."""

    code = "unknown_expression"


class PipelinePlanError(ArgumentError):
    """A pipeline plan cannot be read, or names places that this machine or this process does not have."""

    code = "bad_pipeline_plan"


class StateTrackError(ArgumentError):
    """A state track is not readable as times and states."""

    code = "bad_state_track"


class PortraitError(AvatarError):
    """The portrait cannot be used."""

    code = "portrait_error"
    exit_code = EXIT_INPUT


class NotAnImageError(PortraitError):
    """The file is no picture, or is damaged."""

    code = "not_an_image"


class ImageTooLargeError(PortraitError):
    """The picture has more bytes, pixels or length than the limits allow."""

    code = "image_too_large"


class ImageTooSmallError(PortraitError):
    """The picture has too few pixels to hold a face."""

    code = "image_too_small"


class NoFaceError(PortraitError):
    """No face was found."""

    code = "no_face"


class SeveralFacesError(PortraitError):
    """More than one face of comparable size was found."""

    code = "several_faces"


class FaceTooSmallError(PortraitError):
    """There is one face, but it has too few pixels."""

    code = "face_too_small"


class MediaError(AvatarError):
    """The sound cannot be used."""

    code = "media_error"
    exit_code = EXIT_INPUT


class UnreadableMediaError(MediaError):
    """The file is no audio or video file, or is damaged."""

    code = "unreadable_media"


class NoAudioStreamError(MediaError):
    """The file is media but has no sound."""

    code = "no_audio_stream"


class AudioEmptyError(MediaError):
    """There is a sound track, but not one sample in it."""

    code = "audio_empty"


class AudioTooLongError(MediaError):
    """There is more sound than the limit allows."""

    code = "audio_too_long"


class AudioFormatError(MediaError):
    """Raw samples have a rate, type or shape that cannot be converted."""

    code = "audio_format"


class FileError(AvatarError):
    """A file or folder is not where or how it must be."""

    code = "file_error"
    exit_code = EXIT_INPUT


class FileMissingError(FileError):
    """An input file does not exist."""

    code = "file_missing"


class UnreadableFileError(FileError):
    """An input exists but cannot be opened: a folder, or no permission."""

    code = "unreadable_file"


class OutputFolderMissingError(FileError):
    """The folder of an output file does not exist."""

    code = "output_folder_missing"
    exit_code = EXIT_OUTPUT


class OutputNotWritableError(FileError):
    """An output file cannot be written."""

    code = "output_not_writable"
    exit_code = EXIT_OUTPUT


class BundleError(AvatarError):
    """The model bundle cannot be used."""

    code = "bundle_error"
    exit_code = EXIT_MODEL


class BundleMissingError(BundleError):
    """There is no bundle of that name or at that path."""

    code = "bundle_missing"


class BundleCorruptError(BundleError):
    """A file of the bundle is absent, altered, or contradicts the manifest."""

    code = "bundle_corrupt"


class ArtefactError(AvatarError):
    """What a library made of a model cannot be used."""

    code = "artefact_error"
    exit_code = EXIT_MODEL


class ArtefactCorruptError(ArtefactError):
    """A file of an artefact is absent, altered, or contradicts its manifest."""

    code = "artefact_corrupt"


class ArtefactStaleError(ArtefactError):
    """An artefact is sound, but was made of another model, by another version, or for another machine."""

    code = "artefact_stale"


class BackendError(AvatarError):
    """The model cannot be run."""

    code = "backend_error"
    exit_code = EXIT_MODEL


class BackendUnavailableError(BackendError):
    """The backend asked for is unknown, not installed, or does not fit this bundle."""

    code = "backend_unavailable"


class EngineBuildError(BackendUnavailableError):
    """The library cannot make an engine of a graph."""

    code = "engine_build"


class BackendFailedError(BackendError):
    """The backend failed while running."""

    code = "backend_failed"
    retryable = True


class ExtraMissingError(BackendError):
    """A command needs packages of an extra that is not installed."""

    code = "extra_missing"


class SessionError(AvatarError):
    """A session cannot do what was asked."""

    code = "session_error"


class SessionClosedError(SessionError):
    """The session has ended."""

    code = "session_closed"


class AudioBufferFullError(SessionError):
    """More sound was pushed than the buffer holds. Push the rest once some of it has been shown."""

    code = "audio_buffer_full"
    retryable = True


class WorkerError(AvatarError):
    """What computes for the sessions cannot do so."""

    code = "worker_error"
    exit_code = EXIT_MODEL


class EngineFullError(WorkerError):
    """As many sessions are open as this machine can serve."""

    code = "engine_full"
    retryable = True


class SlotBusyError(WorkerError):
    """A slot was given more steps than it may have under way."""

    code = "slot_busy"
    retryable = True


class WorkerLostError(WorkerError):
    """The worker crashed, hung or was not ready in time; another one is being started."""

    code = "worker_lost"
    retryable = True


class StageLostError(WorkerError):
    """The process of one stage of a pipeline crashed, hung or was not ready in time. Open the model again."""

    code = "stage_lost"
    retryable = True


class WorkerBrokenError(WorkerError):
    """The worker crashed so often that it is no longer restarted."""

    code = "worker_broken"


class DataError(AvatarError):
    """Training data cannot be made or read."""

    code = "data_error"
    exit_code = EXIT_INPUT


class ShardDamagedError(DataError):
    """A shard is cut short, altered, or lacks a part of a clip."""

    code = "shard_damaged"


class DataSettingsError(DataError):
    """A folder holds shards that were made with other settings."""

    code = "data_settings"


class SubjectsFailedError(DataError):
    """So many subjects in a row could not be drawn that the set-up must be wrong."""

    code = "subjects_failed"


class CastDamagedError(DataError):
    """A cast is cut short, altered, or of another version."""

    code = "cast_damaged"


class StreamLostError(DataError):
    """The processes that draw for training keep dying, or draw nothing."""

    code = "stream_lost"


class WeightsDamagedError(DataError):
    """Trained weights are cut short, altered, or lack a file."""

    code = "weights_damaged"
