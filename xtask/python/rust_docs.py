"""Text of the Rust documentation that rustup installs (component `rust-docs`).

`documents(html_root)` returns a sorted list of `(name, text)` pairs: one entry
per page of the books and of the standard library, as clean Markdown-like text
(headings, paragraphs, list items, fenced code). Navigation, redirect pages,
`print.html` copies, search pages and duplicated passages are left out. The
result depends only on the installed documentation.
"""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

from lxml import html as lxml_html

# Books written with mdBook: the text is in <main>.
BOOKS = [
    "book",
    "cargo",
    "clippy",
    "edition-guide",
    "embedded-book",
    "error_codes",
    "nomicon",
    "reference",
    "rust-by-example",
    "rustc",
    "rustdoc",
    "style-guide",
    "unstable-book",
]

# Standard library crates, in the order in which a passage is kept when the
# same passage appears in more than one of them.
CRATES = ["std", "alloc", "core"]

# Parts of the standard library whose pages are mostly tables of generated
# items rather than prose.
SKIPPED_MODULES = {
    "arch",
    "bstr",
    "core_arch",
    "core_simd",
    "detect",
    "intrinsics",
    "legacy",
    "os",
    "portable_simd",
    "simd",
    "stdarch",
    "unicode",
}

SKIPPED_PAGES = {
    "print.html", "toc.html", "all.html", "SUMMARY.html", "404.html", "searcher.html",
    "CHANGELOG.html",  # mostly link titles
    "test-summary.html",
}

# Numeric types share nearly all of their text; the others (u8, i32, u32, f64)
# are kept.
SKIPPED_PRIMITIVES = {
    f"primitive.{name}.html"
    for name in ("i8", "i16", "i64", "i128", "isize", "u16", "u64", "u128", "usize", "f16", "f32", "f128")
}

# Translations inside the book folders.
TRANSLATIONS = {"es", "fr", "ja", "ko", "pt", "ru", "zh"}

# Elements without prose.
DROPPED_TAGS = {"script", "style", "nav", "button", "svg", "form", "input", "noscript", "img", "iframe"}
DROPPED_CLASSES = {
    "rule",  # the reference's paragraph labels
    "grammar-railroad",
    "grammar-toggle-railroad",
    "hidden",
    "boring",  # code lines hidden by mdBook
    "buttons",
    "footnote-definition-label",
    "doc-anchor",
    "tooltip",
    "src",
    "since",
    "rightside",
    "test-link",
    "src-link",
}
BLOCK_TAGS = {
    "address", "article", "aside", "blockquote", "dd", "details", "div", "dl", "dt", "figure",
    "figcaption", "footer", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "ol",
    "p", "pre", "section", "summary", "table", "tbody", "thead", "tr", "ul",
}


def default_html_root():
    """The documentation of the active toolchain, or a clear failure."""
    try:
        sysroot = subprocess.run(
            ["rustc", "--print", "sysroot"], check=True, capture_output=True, text=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"cannot run rustc to find the documentation: {error}")
    return Path(sysroot) / "share" / "doc" / "rust" / "html"


def check_html_root(root):
    missing = [name for name in BOOKS + CRATES if not (root / name / "index.html").is_file()]
    if missing:
        sys.exit(
            f"the Rust documentation is incomplete in {root}: no {', '.join(missing)}.\n"
            "Install it with `rustup component add rust-docs`."
        )


def _classes(element):
    return set((element.get("class") or "").split())


def _dropped(element):
    if not isinstance(element.tag, str) or element.tag in DROPPED_TAGS:
        return True
    return bool(_classes(element) & DROPPED_CLASSES)


def _code_text(element):
    """The text of a <pre>, line breaks kept, hidden lines removed."""
    parts = []

    def walk(node):
        if node.text:
            parts.append(node.text)
        for child in node:
            if isinstance(child.tag, str) and not _dropped(child):
                if child.tag == "br":
                    parts.append("\n")
                walk(child)
            if child.tail:
                parts.append(child.tail)

    walk(element)
    lines = [line.rstrip() for line in "".join(parts).replace("\u00a0", " ").split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


def _language(pre):
    names = set(_classes(pre))
    for code in pre.iter("code"):
        names |= _classes(code)
        break
    for name in ("rust", "toml", "console", "text", "sh", "bash", "json", "c", "yaml"):
        if name in names or f"language-{name}" in names:
            return name
    return ""


def _inline(element):
    """Inline content as one line of text."""
    parts = []

    def walk(node):
        if node.text:
            parts.append(node.text)
        for child in node:
            if isinstance(child.tag, str) and not _dropped(child):
                if child.tag == "code":
                    text = "".join(child.itertext())
                    if text.strip():
                        parts.append(f"`{text.strip()}`")
                elif child.tag == "br":
                    parts.append(" ")
                elif child.tag == "sup" and child.find(".//a") is not None:
                    pass  # footnote mark
                else:
                    walk(child)
            if child.tail:
                parts.append(child.tail)

    walk(element)
    return re.sub(r"\s+", " ", "".join(parts)).strip()


def _has_block_child(element):
    return any(
        isinstance(node.tag, str) and node.tag in BLOCK_TAGS for node in element.iterdescendants()
    )


def blocks(element):
    """Text blocks of `element`, in order. A list is one block."""
    out = []
    pending = []

    def flush():
        text = re.sub(r"\s+", " ", "".join(pending)).strip()
        pending.clear()
        if text:
            out.append(text)

    def item_lines(item, bullet, indent):
        inner = blocks(item)
        if not inner:
            return []
        lines = []
        for number, block in enumerate(inner):
            prefix = bullet if number == 0 else " " * len(bullet)
            for k, line in enumerate(block.split("\n")):
                lead = prefix if k == 0 else " " * len(bullet)
                lines.append((indent + lead + line) if line else "")
        return lines

    def visit(node):
        if _dropped(node):
            return
        tag = node.tag
        if tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
            flush()
            text = _inline(node).strip("§ ")
            if text:
                out.append("#" * int(tag[1]) + " " + text)
        elif tag == "pre":
            flush()
            text = _code_text(node)
            if text:
                out.append(f"```{_language(node)}\n{text}\n```")
        elif tag in ("ul", "ol"):
            flush()
            lines = []
            number = 1
            for item in node:
                if isinstance(item.tag, str) and item.tag == "li" and not _dropped(item):
                    bullet = "- " if tag == "ul" else f"{number}. "
                    number += 1
                    lines.extend(item_lines(item, bullet, ""))
            if lines:
                out.append("\n".join(lines))
        elif tag == "table":
            flush()
            rows = []
            for row in node.iter("tr"):
                cells = [_inline(cell) for cell in row if cell.tag in ("td", "th")]
                if any(cells):
                    rows.append("| " + " | ".join(cells) + " |")
            if rows:
                out.append("\n".join(rows))
        elif tag == "dt":
            flush()
            text = _inline(node)
            if text:
                out.append(text)
        elif tag in BLOCK_TAGS:
            flush()
            if _has_block_child(node):
                descend(node)
                flush()
            else:
                text = _inline(node)
                if text:
                    out.append(text)
        elif _has_block_child(node):
            descend(node)
        elif tag == "code":
            text = "".join(node.itertext()).strip()
            if text:
                pending.append(f"`{text}`")
        elif tag == "br":
            pending.append(" ")
        elif tag == "sup" and node.find(".//a") is not None:
            pass
        else:
            pending.append(_inline_keep_edges(node))

    def descend(node):
        if node.text:
            pending.append(node.text)
        for child in node:
            if isinstance(child.tag, str):
                visit(child)
            if child.tail:
                pending.append(child.tail)

    descend(element)
    flush()
    return out


def _inline_keep_edges(node):
    raw = "".join(node.itertext())
    text = _inline(node)
    if raw[:1].isspace():
        text = " " + text
    if raw[-1:].isspace():
        text = text + " "
    return text


def _clean(text):
    for old, new in (
        ("\u00a0", " "), ("\u200b", ""), ("\u2019", "'"), ("\u2018", "'"), ("\u201c", '"'),
        ("\u201d", '"'), ("\u00ad", ""), ("\u2011", "-"), ("\r", ""),
    ):
        text = text.replace(old, new)
    return text


def book_page(path):
    source = path.read_text(encoding="utf-8")
    start, end = source.find("<main>"), source.rfind("</main>")
    if start < 0 or end < 0:
        return []  # a redirect
    main = lxml_html.fromstring(source[start : end + len("</main>")])
    return [_clean(block) for block in blocks(main)]


ITEM_FILE = re.compile(r"^(struct|enum|trait|fn|macro|keyword|primitive|union|type|constant|attr|index)\b")


def _signature(section):
    for header in section.iter("h3", "h4"):
        if "code-header" in _classes(header):
            text = "".join(header.itertext())
            return re.sub(r"\s+", " ", text.replace("\u200b", "").replace("\u00a0", " ")).strip()
    return ""


def library_page(path):
    """Docblocks of one rustdoc page: the item's own text, then its methods'."""
    source = path.read_text(encoding="utf-8")
    start = source.find('<section id="main-content"')
    if start < 0:
        return []
    body = lxml_html.fromstring(source[start:])
    out = []
    heading = body.find(".//h1")
    if heading is not None:
        title = _inline(heading).replace("Copy item path", "").strip()
        if title:
            out.append(f"# {title}")
    for block in body.iter("div"):
        if "docblock" not in _classes(block):
            continue
        if any("docblock" in _classes(parent) for parent in block.iterancestors("div")):
            continue
        found = blocks(block)
        if not found:
            continue
        details = block.getparent()
        summary = details.find("summary") if details is not None else None
        if summary is not None and "method-toggle" in _classes(details):
            name = _signature(summary)
            if name:
                found = [f"## `{name}`"] + found
        out.append(tuple(_clean(part) for part in found))
    return out


def documents(html_root):
    """All documents as `(name, text)`, passages that repeat kept once."""
    check_html_root(html_root)
    result = []
    seen_pages = set()
    seen_blocks = set()

    def digest(text):
        return hashlib.blake2b(text.encode(), digest_size=12).digest()

    def add(name, text):
        text = text.strip() + "\n"
        if len(text) < 200:
            return
        key = digest(re.sub(r"\W+", "", text))
        if key in seen_pages:
            return
        seen_pages.add(key)
        result.append((name, text))

    for book in BOOKS:
        base = html_root / book
        for path in sorted(base.rglob("*.html")):
            name = path.relative_to(html_root)
            if path.name in SKIPPED_PAGES or TRANSLATIONS & set(name.parts[1:-1]):
                continue
            parts = book_page(path)
            # A long passage seen before marks an old edition of the same page.
            kept = []
            for part in parts:
                if len(part) >= 120:
                    key = digest(part)
                    if key in seen_blocks:
                        continue
                    seen_blocks.add(key)
                kept.append(part)
            add(str(name), "\n\n".join(kept))

    for crate in CRATES:
        base = html_root / crate
        for path in sorted(base.rglob("*.html")):
            name = path.relative_to(html_root)
            if not ITEM_FILE.match(path.name) or SKIPPED_MODULES & set(name.parts[1:-1]):
                continue
            if path.name.startswith("type.c_") or path.name in SKIPPED_PRIMITIVES:
                continue
            kept = []
            size = 0
            for passage in library_page(path):
                if isinstance(passage, str):
                    kept.append(passage)
                    continue
                text = "\n\n".join(passage)
                body = "\n\n".join(p for p in passage if not p.startswith("## `"))
                # Integer types repeat the same text with another type name.
                key = digest(re.sub(r"\b[iu](8|16|32|64|128|size)\b|\d+|\W+", "", body))
                if key in seen_blocks:
                    continue
                seen_blocks.add(key)
                if len(body) < 60 and size == 0 and not kept:
                    continue
                kept.append(text)
                size += len(text)
            if size >= 150:
                add(str(name), "\n\n".join(kept))
    return result


if __name__ == "__main__":
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else default_html_root()
    found = documents(root)
    by_top = {}
    for name, text in found:
        top = name.split("/")[0]
        count, size = by_top.get(top, (0, 0))
        by_top[top] = (count + 1, size + len(text.encode()))
    for top, (count, size) in by_top.items():
        print(f"{top:18} {count:5} documents {size:9} bytes")
    print(f"{'total':18} {len(found):5} documents {sum(len(t.encode()) for _, t in found):9} bytes")
