"""What all pages share: pictures for dark mode, descriptions for search engines, one address."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from addresses import repository
from docutils import nodes
from sphinx.transforms import SphinxTransform

#: The line in listings that says where the source is; with an address, it becomes a command.
IN_A_CLONE = "# in a clone of the repository\n"
#: How long a description should be at least, and at most; search engines show no more.
SHORT, LONG = 80, 160


def _clone(app: Any, document: str, source: list[str]) -> None:
    """Let listings that begin in a clone make one, if the repository has an address."""
    if url := repository():
        source[0] = source[0].replace(IN_A_CLONE, f"git clone {url} mpidask && cd mpidask\n")


class DarkPictures(SphinxTransform):
    """Show ``heat-dark.png`` in place of ``heat.png`` on a dark page, if there is one."""

    default_priority = 100  # before Sphinx collects the images

    def apply(self, **kwargs: Any) -> None:
        """Put the dark picture beside the light one; each is seen in its own mode."""
        page = Path(self.env.doc2path(self.env.docname)).parent
        for image in list(self.document.findall(nodes.image)):
            light = Path(image["uri"])
            dark = light.with_name(f"{light.stem}-dark{light.suffix}")
            if (page / dark).exists():
                other = image.deepcopy()
                other["uri"] = dark.as_posix()
                image["classes"].append("only-light")
                other["classes"].append("only-dark")
                image.parent.insert(image.parent.index(image) + 1, other)


def _describe(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Describe a page by its first paragraph."""
    if doctree is None:
        return
    paragraph = next(iter(doctree.findall(nodes.paragraph)), None)
    if paragraph is not None:
        text = html.escape(_beginning(" ".join(paragraph.astext().split())))
        context["metatags"] += f'\n<meta name="description" content="{text}" />'


def _beginning(text: str) -> str:
    """Cut a text at the end of a sentence, or else of a word."""
    if len(text) <= LONG:
        return text
    cut = text[:LONG]
    sentence = cut.rfind(". ")
    return cut[: sentence + 1] if sentence > SHORT else f"{cut[: cut.rfind(' ')]} ..."


def setup(app: Any) -> dict[str, Any]:
    """Connect all of this."""
    app.connect("source-read", _clone)
    app.add_transform(DarkPictures)
    app.connect("html-page-context", _describe)
    return {"parallel_read_safe": True}
