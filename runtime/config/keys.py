"""Every key of a run: what it means, its flag, its limits. Help, files and messages use it.

The types and defaults are those of `runtime.config.tree`; a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass

_TINY = 1e-9


@dataclass(frozen=True)
class Key:
    """One value.

    Attributes:
        path: in the file, such as `output.jsonl`; keys of `[[source]]` and `[[event]]` begin
            with `source.` and `event.`.
        help: one sentence for flags and files.
        flag: on the command line; None where there is none, or one of its own making.
        low, high: limits of a number, inclusive; None for none.
        example: a value for the commented file where the default is none at all.
    """

    path: str
    help: str
    flag: str | None = None
    low: float | None = None
    high: float | None = None
    example: str | None = None

    @property
    def section(self) -> str:
        """The part before the dot."""
        return self.path.partition(".")[0]

    @property
    def name(self) -> str:
        """The part after the dot."""
        return self.path.partition(".")[2]


SECTIONS = {
    "model": "What runs, and on what.",
    "source": "Where frames come from. Repeat the table for several sources at once.",
    "flow": "How frames go through, and what happens when something fails.",
    "regions": "Which parts of a frame the network is shown; nothing here: all of it.",
    "style": "How results are drawn into a frame.",
    "output": "Where results go; any number at once.",
    "recording": "How the files of a long run are kept in bounds.",
    "event": "A rule for events: all conditions given must hold. Repeat the table for more rules.",
    "serve": "The live page. The table switches it on.",
    "log": "What is said on standard error.",
}

KEYS = (
    Key("model.path", "A folded model (.onnx) or its engine (.engine).", example='"model.onnx"'),
    Key(
        "model.backend",
        "Which library runs it. Unless given: TensorRT an .engine, ONNX Runtime an .onnx. auto "
        "tries TensorRT, CUDA and the CPU in turn, and says so.",
        "--backend",
        example='"auto"',
    ),
    Key(
        "model.provider",
        "What ONNX Runtime computes on: auto is CUDA where it works, else the CPU; tensorrt is "
        "ONNX Runtime's own.",
        "--provider",
    ),
    Key("model.threads", "Threads on the CPU.", "--threads", low=1, high=4096, example="2"),
    Key(
        "model.cuda_graph",
        "Whether runs on a GPU are captured and replayed; unless given, in TensorRT only.",
        "--cuda-graph/--no-cuda-graph",
        example="true",
    ),
    Key(
        "model.build",
        "Let backend tensorrt build a missing engine: minutes.",
        "--build",
    ),
    Key("source.camera", "A camera of this machine, by number.", low=0, high=255, example="0"),
    Key("source.file", "An image, a folder, a pattern, or a video.", example='"photos/*.jpg"'),
    Key(
        "source.uri",
        "A path, /dev/videoN, or an address such as rtsp://camera/stream.",
        example='"rtsp://user:password@camera/stream"',
    ),
    Key(
        "source.width", "Asked of a camera, in pixels; needed for raw frames.",
        "--width", low=1, high=1 << 15, example="1280",
    ),
    Key(
        "source.height", "Asked of a camera, in pixels; needed for raw frames.",
        "--height", low=1, high=1 << 15, example="720",
    ),
    Key("source.fps", "Asked of a camera, frames per second.", "--fps", _TINY, 1000, "30.0"),
    Key("source.codec", "Asked of a camera, a FourCC.", "--codec", example='"MJPG"'),
    Key("source.transport", "Of RTSP.", "--transport"),
    Key("source.decode", "Where video is decoded, if there is a choice.", "--decode"),
    Key("source.rotate", "Degrees clockwise, before anything else.", "--rotate"),
    Key(
        "source.crop", "Part of the rotated frame that is kept: x, y, width, height in pixels.",
        "--crop", low=0, high=1 << 20, example="[0, 0, 640, 480]",
    ),
    Key("source.every", "Of so many frames one is processed.", "--every", low=1, high=10**9),
    Key(
        "flow.keep",
        "newest drops frames that a newer one has overtaken, every drops none; auto is the first "
        "for live sources and the second for recorded ones.",
        "--keep",
    ),
    Key("flow.queue", "Frames that may wait between two stages.", "--queue", 1, 1024),
    Key("flow.batch", "Images per forward pass at most.", "--batch", 1, 4096, "2"),
    Key(
        "flow.stall_seconds", "A live source silent for so long is opened again.",
        "--stall-seconds", _TINY, 1e6,
    ),
    Key(
        "flow.backoff_seconds", "First wait before a source is tried again.",
        "--backoff-seconds", 0, 1e6,
    ),
    Key(
        "flow.backoff_most_seconds", "Longest wait before a source is tried again.",
        "--backoff-most-seconds", 0, 1e6,
    ),
    Key(
        "flow.failures", "Failures of the backend in a row that end the run.",
        "--failures", 1, 10**6,
    ),
    Key(
        "flow.reconnect", "Whether a live source that ends is opened again.",
        "--reconnect/--no-reconnect",
    ),
    Key(
        "flow.wait",
        "Whether a live source that cannot be opened at the start is waited for.",
        "--wait",
    ),
    Key(
        "flow.gather_seconds",
        "A frame waits at most so long for those of other live sources, to share a pass.",
        "--gather-seconds",
        0,
        60,
    ),
    Key(
        "regions.boxes", "A region of the frame to look at: x, y, width, height in pixels.",
        "--region", low=0, high=1 << 20, example="[[0, 0, 320, 240], [320, 0, 320, 240]]",
    ),
    Key(
        "regions.grid", "Equal cells to look at: columns and rows.",
        "--grid", low=1, high=64, example="[3, 2]",
    ),
    Key(
        "regions.detector", "module:function, a frame to the boxes of its regions.",
        "--detector", example='"my_package.detector:find"',
    ),
    Key(
        "regions.file", "A JSONL file of boxes, one line per frame.",
        "--boxes", example='"boxes.jsonl"',
    ),
    Key("style.opacity", "Of the heat at its hottest place, 0 to 1.", "--opacity", 0, 1),
    Key("style.colormap", "Of the heat.", "--colormap"),
    Key("style.threshold", "Heat below it, 0 to 1, is not painted.", "--threshold", 0, 1),
    Key("style.mark", "Drawn around the hottest region.", "--mark"),
    Key("style.boxes", "Draw the regions' boxes and labels.", "--draw-boxes/--no-draw-boxes"),
    Key("style.caption", "Write the answer along the bottom.", "--caption/--no-caption"),
    Key(
        "output.save",
        "Where overlays go: a folder, or a video file (.mp4 .avi .mkv).",
        "--save", example='"out/"',
    ),
    Key(
        "output.images", "A folder of single overlays, also of videos and cameras.",
        "--images", example='"pictures/"',
    ),
    Key(
        "output.images_every", "Of so many frames one becomes a single overlay.",
        "--images-every", 1, 10**9,
    ),
    Key(
        "output.jsonl",
        "One JSON line per frame to this file, or to standard output with -.",
        "--jsonl", example='"results.jsonl"',
    ),
    Key(
        "output.embedding", "Whether JSON lines and MQTT messages carry the embedding.",
        "--embedding/--no-embedding",
    ),
    Key(
        "output.parquet", "Embeddings, labels and boxes to this Parquet file.",
        "--parquet", example='"embeddings.parquet"',
    ),
    Key(
        "output.mqtt", "Results to a broker: mqtt://host:1883/topic, mqtts:// with TLS.",
        "--mqtt", example='"mqtt://user:password@broker/cameras/door"',
    ),
    Key(
        "output.webhook",
        "Post each JSON line to this web address, https:// or http://; default: to none.",
        "--webhook", example='"https://example.org/hooks/door"',
    ),
    Key(
        "output.webhook_token_file",
        "The file whose first line is sent to the webhook as a bearer token; default: the "
        "environment variable FOLDCAM_WEBHOOK_TOKEN, if it is set.",
        "--webhook-token-file", example='"webhook-token.txt"',
    ),
    Key(
        "output.events", "A folder for events.jsonl and snapshots; it needs a rule (--event).",
        "--events", example='"events/"',
    ),
    Key("output.show", "Open a window.", "--show"),
    Key(
        "output.sinks", "module:factory, a sink of your own.",
        "--sink", example='["my_package.sinks:make"]',
    ),
    Key(
        "recording.rotate_minutes", "Begin a new file after so many minutes.",
        "--rotate-minutes", 0.001, 1e6, "60.0",
    ),
    Key(
        "recording.rotate_mb", "Begin a new file after so many megabytes.",
        "--rotate-mb", 0.001, 1e9, "500.0",
    ),
    Key(
        "recording.keep_gb", "Of each output remove the oldest segments above so many gigabytes.",
        "--keep-gb", 1e-6, 1e6, "50.0",
    ),
    Key(
        "recording.min_free_gb", "Pause the recording of live sources below so much free space.",
        "--min-free-gb", 0, 1e6,
    ),
    Key(
        "event.name",
        "The rule's name: letters, digits, dots, dashes and underscores. Files are named by it.",
        example='"unknown"',
    ),
    Key(
        "event.label", "The nearest label must be this one, or one of these.",
        example='["owl", "snowy owl"]',
    ),
    Key("event.not_label", "The nearest label must be none of these.", example='"owl"'),
    Key(
        "event.similarity_below",
        "The similarity to the nearest row, a cosine from -1 to 1, must be below this.",
        None, -1, 1, "0.4",
    ),
    Key(
        "event.similarity_above",
        "The similarity to the nearest row, a cosine from -1 to 1, must be above this.",
        None, -1, 1, "0.8",
    ),
    Key(
        "event.estimate_below", "The estimate of a continuous outcome must be below this.",
        None, -1e30, 1e30, "100000.0",
    ),
    Key(
        "event.estimate_above", "The estimate of a continuous outcome must be above this.",
        None, -1e30, 1e30, "300000.0",
    ),
    Key(
        "event.heat_in",
        "A box of the frame, x, y, width and height in pixels, for heat_above or heat_below.",
        None, 0, 1 << 20, "[0, 0, 320, 240]",
    ),
    Key(
        "event.heat_below",
        "The share of the frame's heat in the box heat_in, 0 to 1, must be below this.",
        None, 0, 1, "0.1",
    ),
    Key(
        "event.heat_above",
        "The share of the frame's heat in the box heat_in, 0 to 1, must be above this.",
        None, 0, 1, "0.3",
    ),
    Key(
        "event.for_seconds",
        "All conditions must hold for so many seconds without a break.",
        None, 0, 1e6,
    ),
    Key(
        "event.cooldown_seconds",
        "For so many seconds after an event the rule gives no other.",
        None, 0, 1e7,
    ),
    Key(
        "event.hysteresis",
        "A number must go back past its limit by so much before its condition ends.",
        None, 0, 1e12,
    ),
    Key("serve.host", "Loopback unless given; any other needs a token."),
    Key("serve.port", "Of TCP; 0 takes a free one.", None, 0, 65535),
    Key("serve.token", "Better in token_file or in FOLDCAM_TOKEN.", example='""'),
    Key("serve.token_file", "A file that holds the token.", "--token-file", example='"token.txt"'),
    Key("serve.clients", "Viewers at most.", "--clients", 1, 10**5),
    Key(
        "serve.names",
        "A host name under which a reverse proxy shows the page.",
        "--serve-name",
        example='["cameras.example.org"]',
    ),
    Key("serve.fps", "Pictures per second and viewer at most.", "--serve-fps", _TINY, 1000),
    Key(
        "serve.thumbnails",
        "A folder with one picture, or one folder of pictures, per label.",
        "--thumbnails",
        example='"thumbnails/"',
    ),
    Key("log.format", "Of log lines.", "--log-format"),
    Key("log.level", "Below it nothing is said.", "--log-level"),
    Key("log.status", "Whether there is a status line."),
)  # fmt: skip
BY_PATH = {key.path: key for key in KEYS}
# What replaced keys of earlier versions, as the hint of the message that refuses them.
REPLACED = {
    "event.when": "conditions are keys of their own, such as similarity_below = 0.4 or "
    'label = "owl"; see docs/sinks.md',
}
