"""A tab of Locust's web UI with what a run has come to (`_board`).

Locust's tabs hold one table and no lines, so the tab is filled with the page `headroom/`, which can also be opened by
itself. It loads nothing but its own files, and shows texts as texts. What it shows is made when it is asked for, at
most once in `FRESH` seconds; who does not look costs nothing.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, jsonify, request, send_from_directory
from locust.web import WebUI

TAB = "headroom"
FRESH = 1.0
_PAGE = Path(__file__).parent / "page"
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-ancestors 'self'"


def add_tab(ui: WebUI, show: Callable[[], dict[str, Any]], base: str) -> None:
    """`base` is the path below which Locust serves its pages, empty for none."""
    made: list[tuple[float, dict[str, Any]]] = [(0.0, {})]
    protected: Callable[[Callable[..., Response]], Callable[..., Response]] = ui.auth_required_if_enabled
    pages = Blueprint(TAB, __name__, url_prefix=f"{base}/{TAB}")

    @pages.route("/live.json")
    @protected
    def live() -> Response:
        if time.monotonic() - made[0][0] > FRESH:
            made[0] = time.monotonic(), show()
        return jsonify(made[0][1])

    @pages.route("/", defaults={"name": "index.html"})
    @pages.route("/<name>")
    @protected
    def page(name: str) -> Response:
        return send_from_directory(_PAGE, name)

    @pages.after_request
    def guard(reply: Response) -> Response:
        reply.headers["Content-Security-Policy"] = _POLICY
        reply.headers["X-Content-Type-Options"] = "nosniff"
        reply.headers["Cache-Control"] = "no-store"
        return reply

    assert ui.app is not None
    ui.app.register_blueprint(pages)
    ui.template_args["extended_tabs"] = [{"title": "Azure OpenAI", "key": TAB}]

    @ui.app.after_request
    def fill(reply: Response) -> Response:
        if request.path == f"{base}/" and reply.mimetype == "text/html" and not reply.direct_passthrough:
            script = f'<script src="./{TAB}/tab.js"></script></body>'
            reply.set_data(reply.get_data(as_text=True).replace("</body>", script))
        return reply
