"""Take a picture of the interactive docs of a service: `nox -s picture` writes docs.png.

It needs npm and Chromium. Swagger UI comes from npm, since the docs load it from a CDN.
"""

import shutil
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "pictures" / "docs.png"
# As FastAPI's page, but with local scripts.
PAGE = """<!DOCTYPE html>
<meta charset="utf-8">
<link rel="stylesheet" href="node_modules/swagger-ui-dist/swagger-ui.css">
<div id="swagger-ui"></div>
<script src="node_modules/swagger-ui-dist/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", tagsSorter: "alpha"})</script>
"""


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser or not shutil.which("npm"):
        sys.exit("The picture needs npm and Chromium: apt install npm chromium")
    with TemporaryDirectory() as name:
        folder = Path(name)
        copy = ["uvx", "copier", "copy", "--quiet", "--defaults", "--vcs-ref", "HEAD"]
        answers = ("project_name=Orders", "mail=smtp", "organizations=members")
        data = [f"--data={answer}" for answer in answers]
        subprocess.run([*copy, *data, ROOT, folder / "orders"], check=True)
        document = subprocess.run(
            ["uv", "run", "--quiet", "orders", "openapi"],
            cwd=folder / "orders",
            stdout=subprocess.PIPE,
            check=True,
        )
        (folder / "openapi.json").write_bytes(document.stdout)
        subprocess.run(
            ["npm", "install", "--silent", f"--prefix={name}", "swagger-ui-dist@5"], check=True
        )
        (folder / "index.html").write_text(PAGE)
        with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=name)) as server:
            Thread(target=server.serve_forever).start()
            options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1200,2300"]
            options += ["--virtual-time-budget=10000", f"--screenshot={PICTURE}"]
            address = f"http://127.0.0.1:{server.server_port}/"
            subprocess.run([browser, *options, address], check=True, capture_output=True)
            server.shutdown()


if __name__ == "__main__":
    main()
