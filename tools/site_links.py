"""Check that every link of the built site leads somewhere, and nothing is fetched from elsewhere.

python tools/site_links.py build/site
"""

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_FETCHED = {"script": "src", "img": "src", "link": "href", "source": "src", "iframe": "src"}
_NOT_FETCHED = {"canonical", "next", "prev", "edit"}


class _Page(HTMLParser):
    """The links, the fetched addresses and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag leads to."""
        given = {key: value for key, value in attrs if value is not None}
        self.anchors.update(given[key] for key in ("id", "name") if key in given)
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        key = _FETCHED.get(tag)
        if key in given and given.get("rel") not in _NOT_FETCHED:
            self.fetched.append(given[key])


def mistakes(site: Path) -> Iterator[str]:
    """Yield a sentence for each link to nowhere and each address elsewhere that is fetched."""
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        where = path.relative_to(site)
        if where.name == "404.html":
            continue  # its links are those of the published site's root
        for address in page.fetched:
            if urlsplit(address).netloc:
                yield f"{where}: {address} is fetched from elsewhere"
        for address in [*page.links, *page.fetched]:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target = target / "index.html"
            if not target.is_file():
                yield f"{where}: {address} leads to no file"
            elif (
                parts.fragment
                and target in pages
                and unquote(parts.fragment) not in pages[target].anchors
            ):
                yield f"{where}: {address} leads to no anchor"


def main() -> None:
    """Check the site."""
    site = Path(sys.argv[1]).resolve()
    found = list(mistakes(site))
    for mistake in found:
        print(mistake)
    pages = len(list(site.rglob("*.html")))
    if found or not pages:
        sys.exit(f"{len(found)} mistakes in {pages} pages: mend the pages in docs/ and tools/")
    print(f"{pages} pages: every link leads somewhere, nothing is fetched from elsewhere")


if __name__ == "__main__":
    main()
