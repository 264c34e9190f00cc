"""What someone without the token sees: nothing of the run, and where to put the token."""

from __future__ import annotations

import base64
import hashlib

_STYLE = (
    ":root{color-scheme:light dark}"
    "body{margin:0;min-height:100vh;display:grid;place-items:center;"
    "font:1rem/1.5 system-ui,sans-serif;background:#f4f5f7;color:#14171c}"
    "form{display:grid;gap:.75rem;width:min(22rem,calc(100vw - 3rem))}"
    "h1{font-size:1.4rem;margin:0}p{margin:0}"
    "input,button{font:inherit;padding:.7rem .8rem;border-radius:.6rem;border:1px solid #8a93a3;"
    "background:transparent;color:inherit;min-width:0}"
    "button{background:#0b57d0;border-color:#0b57d0;color:#fff;cursor:pointer}"
    "[role=alert]{color:#b3261e}"
    "@media(prefers-color-scheme:dark){body{background:#0f1216;color:#e8eaee}"
    "[role=alert]{color:#ffb4ab}}"
)
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
# Nothing else can be loaded without the token, so the style is inline, by its hash.
LOGIN_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)


def login_page(path: str, wrong: bool) -> str:
    """The form as HTML.

    Args:
        path: that was asked for: the form's address is relative to it, so that a proxy may
            show the page below any prefix.
    """
    up = "../" * max(0, path.count("/") - 1)
    alert = '<p role="alert">That is not the token.</p>' if wrong else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>foldcam: sign in</title><style>{_STYLE}</style></head><body>"
        f'<form method="post" action="{up}login"><h1>foldcam</h1>'
        f"<p>This camera is shown to those who have its token.</p>{alert}"
        '<label for="token">Token</label>'
        '<input id="token" name="token" type="password" autocomplete="current-password" '
        'required autofocus maxlength="512"><button>Sign in</button></form></body></html>\n'
    )
