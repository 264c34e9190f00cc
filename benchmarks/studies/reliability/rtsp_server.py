"""A real RTSP server on loopback: /usr/bin/python3 rtsp_server.py PORT [USER PASSWORD]

For Debian's Python with `gir1.2-gst-rtsp-server-1.0` and `gstreamer1.0-plugins-good`. It
serves a moving test picture in JPEG at rtsp://127.0.0.1:PORT/test. It imports nothing of ours.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

PIPELINE = (
    "( videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=320,height=240,"
    "framerate=25/1 ! jpegenc ! rtpjpegpay name=pay0 pt=26 )"
)


def main() -> None:
    """Serve until killed."""
    gi: Any = importlib.import_module("gi")
    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    names = ("Gst", "GstRtspServer", "GLib")
    gst, server_of, glib = (_import(name) for name in names)
    gst.init(None)
    server = server_of.RTSPServer.new()
    server.set_address("127.0.0.1")
    server.set_service(sys.argv[1])
    factory = server_of.RTSPMediaFactory.new()
    factory.set_launch(PIPELINE)
    factory.set_shared(True)
    if len(sys.argv) > 3:
        _protect(server_of, server, factory, *sys.argv[2:4])
    server.get_mount_points().add_factory("/test", factory)
    server.attach(None)
    print("serving", flush=True)
    glib.MainLoop().run()


def _import(name: str) -> Any:
    return importlib.import_module(f"gi.repository.{name}")


def _protect(server_of: Any, server: Any, factory: Any, user: str, password: str) -> None:
    token = server_of.RTSPToken()
    token.set_string(server_of.RTSP_TOKEN_MEDIA_FACTORY_ROLE, "viewer")
    auth = server_of.RTSPAuth.new()
    auth.add_basic(server_of.RTSPAuth.make_basic(user, password), token)
    server.set_auth(auth)
    factory.add_role_from_structure(_role(server_of))


def _role(server_of: Any) -> Any:
    structure = _import("Gst").Structure.new_empty("viewer")
    structure.set_value(server_of.RTSP_PERM_MEDIA_FACTORY_ACCESS, True)
    structure.set_value(server_of.RTSP_PERM_MEDIA_FACTORY_CONSTRUCT, True)
    return structure


if __name__ == "__main__":
    main()
