"""Plugs: a face for voice agents that were written for somebody else's interface.

| for | module | runs in |
|---|---|---|
| LiveKit Agents | `livekit_agents`, `rooms` | the agent's process, or a worker that joins the room |
| Pipecat | `pipecat_service` | the pipeline |
| FastRTC | `fastrtc_handler` | the FastRTC server |
| Simli, LiveAvatar LITE, bitHuman | `simli`, `liveavatar`, `bithuman`, served by `lookalike` | `visavis plugs` |
| browsers and aiortc clients | `calls`, `webrtc` | `visavis plugs` |

All of them speak through `Speaker` to an `Avatar`, which is a session of an engine in this process or one of a visavis
server (`avatar.open_avatar`). None of them copies code of the packages that they fit; the names and the order of calls
and messages are facts of those packages, named in each module with the version that was read.
"""
