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
    "model": "The model, and the library and processor that run it.",
    "source": "A source of frames. Repeat the table for several sources at once.",
    "flow": "How frames are queued, what they vote, and what happens when something fails.",
    "regions": "The parts of a frame that the network gets. By default it gets the whole frame.",
    "style": "How results are drawn into a frame.",
    "output": "The outputs, any number of them at once.",
    "recording": "How the files of a long run are kept in bounds.",
    "event": "A rule for events: all conditions given must hold. Repeat the table for more rules.",
    "serve": "The live page. The table switches it on.",
    "log": "The messages on standard error.",
}

KEYS = (
    Key(
        "model.path",
        "The folded model (.onnx) or engine (.engine) that runs.",
        example='"model.onnx"',
    ),
    Key(
        "model.backend",
        "Chooses the library that runs the model. By default an .engine runs in TensorRT and "
        "an .onnx in ONNX Runtime; auto tries TensorRT, CUDA and the CPU in this order and "
        "reports its choice.",
        "--backend", example='"auto"',
    ),
    Key(
        "model.provider",
        "Chooses what ONNX Runtime computes on. auto takes CUDA where it works and the CPU "
        "otherwise; tensorrt is ONNX Runtime's own TensorRT provider, and rtx its plugin for "
        "TensorRT-RTX, where that is installed.",
        "--provider",
    ),
    Key(
        "model.server",
        "Runs the model on an inference server (KServe v2 over HTTP, such as Triton) that has the "
        "same file, see `runtime deploy`; without a name in the address it has the file's.",
        "--server", example='"http://host:8000/birds"',
    ),
    Key(
        "model.threads",
        "Limits the number of CPU threads; by default the library decides.",
        "--threads", low=1, high=4096, example="2",
    ),
    Key(
        "model.cuda_graph",
        "Captures GPU runs as a CUDA graph and replays them; by default only in TensorRT.",
        "--cuda-graph/--no-cuda-graph", example="true",
    ),
    Key(
        "model.build",
        "Lets backend tensorrt build a missing engine, which takes minutes.",
        "--build",
    ),
    Key(
        "model.accept_wrong",
        "Runs a model or engine that answers its probe pictures wrongly on this machine, with a "
        "warning each time, in place of refusing it.",
        "--accept-wrong",
    ),
    Key(
        "model.unknown",
        "Answers unknown where the model's rule says so, which `foldcam threshold` chooses; "
        "without it, the nearest label is the answer however far it is.",
        "--unknown/--no-unknown",
    ),
    Key(
        "model.unknown_below",
        "Answers unknown below this similarity, a cosine from -1 to 1, in place of the model's "
        "rule.",
        "--unknown-below", -1, 1, "0.6",
    ),
    Key(
        "model.gallery",
        "The gallery with the pictures of the bank's rows, for --beside, --report and --serve; by "
        "default MODEL.gallery beside the model, where there is one.",
        "--gallery", example='"model.gallery"',
    ),
    Key(
        "source.camera",
        "Opens a camera of this machine by its number.",
        low=0, high=255, example="0",
    ),
    Key(
        "source.file",
        "Reads an image, a folder, a pattern, or a video.",
        example='"photos/*.jpg"',
    ),
    Key(
        "source.uri",
        "Opens a path, /dev/videoN, or an address such as rtsp://camera/stream.",
        example='"rtsp://user:password@camera/stream"',
    ),
    Key(
        "source.width",
        "Requests this frame width in pixels from a camera (default: the camera's own); raw "
        "frames need it.",
        "--width", low=1, high=1 << 15, example="1280",
    ),
    Key(
        "source.height",
        "Requests this frame height in pixels from a camera (default: the camera's own); raw "
        "frames need it.",
        "--height", low=1, high=1 << 15, example="720",
    ),
    Key(
        "source.fps",
        "Requests this rate in frames per second from a camera (default: the camera's own).",
        "--fps", _TINY, 1000, "30.0",
    ),
    Key(
        "source.codec",
        "Requests this codec, a FourCC such as MJPG, from a camera (default: the camera's "
        "own).",
        "--codec", example='"MJPG"',
    ),
    Key("source.transport", "Chooses the transport protocol of RTSP streams.", "--transport"),
    Key(
        "source.decode",
        "Chooses where video is decoded, on machines that offer both.",
        "--decode",
    ),
    Key(
        "source.rotate",
        "Rotates each frame clockwise by this many degrees, before anything else.",
        "--rotate",
    ),
    Key(
        "source.crop",
        "Keeps only this part of the rotated frame: x, y, width, height in pixels (default: "
        "all of it).",
        "--crop", low=0, high=1 << 20, example="[0, 0, 640, 480]",
    ),
    Key("source.every", "Processes one frame out of this many.", "--every", low=1, high=10**9),
    Key(
        "flow.keep",
        "Chooses which frames are processed: newest drops frames that a newer one has "
        "overtaken, every drops none, and auto is newest for live sources and every for "
        "recorded ones.",
        "--keep",
    ),
    Key(
        "flow.queue",
        "Limits the number of frames that wait between two stages.",
        "--queue", 1, 1024,
    ),
    Key(
        "flow.batch",
        "Limits the images per forward pass; the default is the number of sources, or of "
        "regions in a frame.",
        "--batch", 1, 4096, "2",
    ),
    Key(
        "flow.stall_seconds",
        "Opens a live source again after it has delivered nothing for this many seconds.",
        "--stall-seconds", _TINY, 1e6,
    ),
    Key(
        "flow.backoff_seconds",
        "Sets the first wait, in seconds, before a source is tried again.",
        "--backoff-seconds", 0, 1e6,
    ),
    Key(
        "flow.backoff_most_seconds",
        "Sets the longest wait, in seconds, before a source is tried again.",
        "--backoff-most-seconds", 0, 1e6,
    ),
    Key(
        "flow.failures",
        "Ends the run after the backend has failed this many times in a row.",
        "--failures", 1, 10**6,
    ),
    Key("flow.reconnect", "Opens a live source again when it ends.", "--reconnect/--no-reconnect"),
    Key("flow.wait", "Waits for a live source that cannot be opened at the start.", "--wait"),
    Key(
        "flow.gather_seconds",
        "Lets a frame wait at most this many seconds for frames of other live sources, so "
        "that they share a forward pass.",
        "--gather-seconds", 0, 60,
    ),
    Key(
        "flow.vote_seconds",
        "Lets the frames of the last so many seconds vote over the label of each region of a "
        "video or camera (default: every frame answers for itself).",
        "--vote", 0.01, 3600, "2.0",
    ),
    Key(
        "regions.boxes",
        "Runs the network on this region of the frame: x, y, width, height in pixels "
        "(default: the whole frame).",
        "--region", low=0, high=1 << 20, example="[[0, 0, 320, 240], [320, 0, 320, 240]]",
    ),
    Key(
        "regions.grid",
        "Runs the network on the cells of an equal grid of this many columns and rows "
        "(default: no grid).",
        "--grid", low=1, high=64, example="[3, 2]",
    ),
    Key(
        "regions.detector",
        "Runs the network on the boxes that your function (module:function) returns for each "
        "frame (default: none).",
        "--detector", example='"my_package.detector:find"',
    ),
    Key(
        "regions.file",
        "Runs the network on the boxes in this JSONL file, which has one line per frame "
        "(default: none).",
        "--boxes", example='"boxes.jsonl"',
    ),
    Key(
        "style.map",
        "Chooses the map that is drawn: heatmap shows what speaks for the answer; contribution "
        "also shows what speaks against it, in a second color; contrast shows what speaks for the "
        "nearest label and not the runner-up's.",
        "--map",
    ),
    Key(
        "style.opacity",
        "Sets the opacity of the hottest place of the heatmap, 0 to 1.",
        "--opacity", 0, 1,
    ),
    Key("style.colormap", "Sets the colors of the heatmap.", "--colormap"),
    Key("style.threshold", "Does not paint heat below this value, 0 to 1.", "--threshold", 0, 1),
    Key("style.mark", "Chooses what is drawn around the hottest region.", "--mark"),
    Key("style.boxes", "Draws the regions' boxes and labels.", "--draw-boxes/--no-draw-boxes"),
    Key(
        "style.caption",
        "Writes the answer along the bottom of the picture.",
        "--caption/--no-caption",
    ),
    Key(
        "style.beside",
        "Draws beside the frame the bank's picture that it was matched to, with its own heat; "
        "needs a gallery (foldcam gallery).",
        "--beside/--no-beside",
    ),
    Key(
        "output.save",
        "Writes overlays to this folder or video file (.mp4 .avi .mkv) (default: nowhere).",
        "--save", example='"out/"',
    ),
    Key(
        "output.images",
        "Writes overlays as single pictures to this folder, also for videos and cameras "
        "(default: nowhere).",
        "--images", example='"pictures/"',
    ),
    Key(
        "output.images_every",
        "Writes one single picture for every so many frames.",
        "--images-every", 1, 10**9,
    ),
    Key(
        "output.maps",
        "Writes the maps as data to this folder, one file per frame (default: nowhere).",
        "--maps", example='"maps/"',
    ),
    Key(
        "output.maps_format",
        "Chooses the format of the maps: npz has every map of the model as float32 NumPy arrays "
        "of the network's own size, with their places in the frame; png has the heatmap at the "
        "frame's size with 16 bits of grey, where 65535 is 1.",
        "--maps-format",
    ),
    Key(
        "output.jsonl",
        "Writes one JSON line per frame to this file, or to standard output with - (default: "
        "nowhere).",
        "--jsonl", example='"results.jsonl"',
    ),
    Key(
        "output.embedding",
        "Includes the embedding in JSON lines and MQTT messages.",
        "--embedding/--no-embedding",
    ),
    Key(
        "output.report",
        "Writes one HTML page, report.html, to this folder: pictures with heat, answers, matches "
        "and the run's figures (default: nowhere).",
        "--report", example='"out/"',
    ),
    Key(
        "output.parquet",
        "Writes embeddings, labels and boxes to this Parquet file (default: nowhere).",
        "--parquet", example='"embeddings.parquet"',
    ),
    Key(
        "output.mqtt",
        "Publishes results to an MQTT broker: mqtt://host:1883/topic, or mqtts:// with TLS "
        "(default: none).",
        "--mqtt", example='"mqtt://user:password@broker/cameras/door"',
    ),
    Key(
        "output.webhook",
        "Posts each JSON line to this web address, https:// or http://; default: to none.",
        "--webhook", example='"https://example.org/hooks/door"',
    ),
    Key(
        "output.webhook_token_file",
        "The file whose first line is sent to the webhook as a bearer token; default: the "
        "environment variable FOLDCAM_WEBHOOK_TOKEN, if it is set.",
        "--webhook-token-file", example='"webhook-token.txt"',
    ),
    Key(
        "output.events",
        "Writes events.jsonl and snapshots to this folder, and needs a rule (default: "
        "nowhere).",
        "--events", example='"events/"',
    ),
    Key("output.show", "Opens a window that shows the overlays.", "--show"),
    Key(
        "output.sinks",
        "Sends results to a sink of your own, made by module:factory (default: none).",
        "--sink", example='["my_package.sinks:make"]',
    ),
    Key(
        "recording.rotate_minutes",
        "Begins a new file after this many minutes (default: never).",
        "--rotate-minutes", 0.001, 1e6, "60.0",
    ),
    Key(
        "recording.rotate_mb",
        "Begins a new file after this many megabytes (default: never).",
        "--rotate-mb", 0.001, 1e9, "500.0",
    ),
    Key(
        "recording.keep_gb",
        "Removes the oldest segments of each output beyond this many gigabytes (default: "
        "keeps all).",
        "--keep-gb", 1e-6, 1e6, "50.0",
    ),
    Key(
        "recording.min_free_gb",
        "Pauses the recording of live sources while the disk has less than this many "
        "gigabytes free.",
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
    Key(
        "event.not_label",
        "The nearest label must be none of these; an unknown image is none of them.",
        example='"owl"',
    ),
    Key(
        "event.unknown",
        "The image must be unknown (or with false, known) by the model's rule, which `foldcam "
        "threshold` chooses.",
        example="true",
    ),
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
    Key(
        "serve.host",
        "The address on which the page is served; any other than loopback needs a token.",
    ),
    Key("serve.port", "The TCP port of the page; 0 takes a free one.", None, 0, 65535),
    Key(
        "serve.token",
        "The token that viewers need; token_file or FOLDCAM_TOKEN is a better place for it.",
        example='""',
    ),
    Key(
        "serve.token_file",
        "Reads the token that viewers need from this file (default: FOLDCAM_TOKEN, if set).",
        "--token-file", example='"token.txt"',
    ),
    Key("serve.clients", "Limits the number of viewers at a time.", "--clients", 1, 10**5),
    Key(
        "serve.names",
        "Allows a host name under which a reverse proxy shows the page (default: none).",
        "--serve-name", example='["cameras.example.org"]',
    ),
    Key(
        "serve.fps",
        "Limits the pictures per second that each viewer is sent.",
        "--serve-fps", _TINY, 1000,
    ),
    Key("log.format", "Chooses the format of log lines.", "--log-format"),
    Key("log.level", "Leaves out log messages below this level.", "--log-level"),
    Key("log.status", "Shows a status line."),
)  # fmt: skip
BY_PATH = {key.path: key for key in KEYS}
# What replaced keys of earlier versions, as the hint of the message that refuses them.
REPLACED = {
    "serve.thumbnails": "the live page shows the matched pictures of the model's gallery; see "
    "docs/live.md",
    "event.when": "conditions are keys of their own, such as unknown = true or "
    'label = "owl"; see docs/sinks.md',
}
