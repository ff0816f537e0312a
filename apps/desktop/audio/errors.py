"""What a sound device can refuse.

AvatarError
├── ExtraMissingError
│   └── SoundLibraryMissingError  sound_library_missing
└── SoundDeviceError        sound_device            (retryable)
    ├── NoSuchDeviceError   no_such_device          (retryable)
    ├── DeviceBusyError     device_busy             (retryable)
    └── LoopbackError       no_loopback
"""

from __future__ import annotations

from engine.errors import AvatarError, ExtraMissingError


class SoundLibraryMissingError(ExtraMissingError):
    """Neither PyAudio nor sounddevice can be used, or PortAudio is absent."""

    code = "sound_library_missing"


class SoundDeviceError(AvatarError):
    """A microphone or speaker cannot be opened."""

    code = "sound_device"
    retryable = True


class NoSuchDeviceError(SoundDeviceError):
    """There is no device of that name, or none at all."""

    code = "no_such_device"


class DeviceBusyError(SoundDeviceError):
    """Another program holds the device for itself."""

    code = "device_busy"


class LoopbackError(SoundDeviceError):
    """This system offers no way to hear what it plays."""

    code = "no_loopback"
    retryable = False
