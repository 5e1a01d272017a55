"""Pages parsed by the standard library, and checks of any page of a report."""

import json
from html.parser import HTMLParser

VOID = ("meta", "img", "input", "link", "br")
LOADING = ("link", "base", "iframe", "object", "embed", "video", "audio", "source")
REFERENCES = {
    *("src", "href", "action", "formaction", "data", "poster", "srcset", "background"),
    *("cite", "ping", "xlink:href", "manifest"),
}


def shown(text):
    """Text of a page, which cannot hold a lone surrogate."""
    return text.encode("utf-8", "backslashreplace").decode()


class Page(HTMLParser):
    """The elements of a page: tag, attributes, and own text in pieces."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.open = [], []
        self.source = path.read_bytes().decode("utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open:
            self.open[-1][2].append(data)

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")

    def unknown_decl(self, data):
        raise AssertionError(f"a declaration: {data}")

    def texts(self, *tags):
        return ["".join(text).strip() for tag, _, text in self.elements if tag in tags]

    def script(self, name):
        """The text of the script of an id."""
        ((tag, _, text),) = [element for element in self.elements if element[1].get("id") == name]
        assert tag == "script"
        return "".join(text)

    def json(self, name):
        return json.loads(self.script(name))

    def shape(self):
        """Tags and the names of their attributes."""
        return [(tag, [*attrs]) for tag, attrs, _ in self.elements]

    def sections(self):
        return [attrs["id"] for tag, attrs, _ in self.elements if tag == "section"]


def check_references(page):
    """Nothing outside is referred to, and what is referred to inside is there."""
    ids = [attrs["id"] for _, attrs, _ in page.elements if "id" in attrs]
    assert len({*ids}) == len(ids)
    for tag, attrs, _ in page.elements:
        assert tag not in LOADING
        assert not [name for name in attrs if name.startswith("on")]
        for name in attrs.keys() & REFERENCES:
            assert attrs[name].startswith(("data:image/webp;base64,", "#"))
        if "href" in attrs:
            assert attrs["href"].removeprefix("#") in ids
    for name in page.json("charts"):
        assert f"chart-{name}" in ids  # where the script draws it


def check_policy(page):
    """Nothing may be fetched, from before the first style or script on; and the page is UTF-8."""
    tags = [tag for tag, _, _ in page.elements]
    ((place, attributes),) = [
        (n, attrs) for n, (_, attrs, _) in enumerate(page.elements) if "http-equiv" in attrs
    ]
    assert tags[place] == "meta"
    assert not {"script", "style"} & {*tags[:place]}
    assert attributes["http-equiv"] == "Content-Security-Policy"
    policy = {
        name: sources for name, *sources in (part.split() for part in attributes["content"].split(";"))
    }
    assert policy.pop("default-src") == ["'none'"]
    assert policy.pop("form-action") == policy.pop("base-uri") == ["'none'"]
    assert policy["img-src"] == ["data:"]
    assert all({*sources} <= {"data:", "'unsafe-inline'", "'unsafe-eval'"} for sources in policy.values())
    assert page.source.index('<meta charset="utf-8">') < 1024
