"""
Pages of one file: what they refer to and say, and what a browser makes of them.
"""

import json
import shutil
import subprocess
from html.parser import HTMLParser

#: A browser on this machine, None where there is none
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
_LOOK = """
<script>
onload = () => {
  document.documentElement.style.width = "360px";
  const images = [...document.images].map(image => image.naturalWidth > 0 && image.clientWidth <= 360);
  const seen = {text: document.body.innerText, images: images, width: document.body.scrollWidth};
  document.body.innerHTML = "<pre id=seen></pre>";
  document.getElementById("seen").textContent = JSON.stringify(seen);
};
</script>
"""


class Page(HTMLParser):
    """Addresses that a page refers to, and the texts of its tables' cells."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.tables, self._cell = [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.addresses += [values[name] for name in ("src", "href", "data", "action", "poster", "srcset") if name in values]
        assert tag not in ("script", "link", "iframe", "object", "embed", "base")
        if tag == "table":
            self._rows = self.tables[values["id"]] = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
            self._cell = self._rows[-1]

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._cell = None

    def handle_data(self, data):
        if self._cell is not None:
            self._cell[-1] += data

    def facts(self, name):
        """Of a table of two columns: what is told -> what is said of it."""
        return dict(self.tables[name])


class _Seen(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.text, self._is_it = "", False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self._is_it = self._is_it or dict(attributes).get("id") == "seen"

    def handle_data(self, data):
        if self._is_it:
            self.text += data


def seen_in_browser(page, folder):
    """
    Opened 360 pixels wide, without network: the text, whether each picture is drawn and fits, the width that it takes, and
    what the console says.
    """
    copy = folder / "opened.html"
    copy.write_text(page.read_text().replace("</body>", f"{_LOOK}</body>"))
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    options += ["--enable-logging=stderr", "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=10000"]
    done = subprocess.run([BROWSER, *options, "--dump-dom", copy.as_uri()], capture_output=True, text=True, timeout=120)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(_Seen(done.stdout).text), console
