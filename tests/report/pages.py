"""A page as a test reads it."""

import html.parser


class Page(html.parser.HTMLParser):
    """The tables of a page as rows of text, its headings, pictures, ids, and what it refers to."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.headings, self.levels, self.references, self.tags = [], [], [], [], set()
        self.ids, self.images, self.figures, self.text = [], [], [], ""
        self.unlabelled_boxes = 0
        self._into = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.add(tag)
        self.references += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "action")]
        self.ids += [values["id"]] if "id" in values else []
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._into = self.tables[-1][-1]
            self._into.append("")
        elif tag in ("h1", "h2", "h3"):
            self._into = self.headings
            self._into.append("")
            self.levels.append(int(tag[1]))
        elif tag == "img":
            self.images.append(values)
        elif tag == "svg" and "aria-label" in values:
            self.figures.append(values["aria-label"])
        elif tag == "div" and values.get("class", "").startswith("wide"):
            named = values.get("role") == "region" and values.get("tabindex") == "0" and values.get("aria-label")
            self.unlabelled_boxes += not named

    def handle_endtag(self, tag):
        if tag in ("td", "th", "h1", "h2", "h3"):
            self._into = None

    def handle_data(self, text):
        self.text += text
        if self._into is not None:
            self._into[-1] += text

    def table(self, first_cell):
        """The table that starts with this cell."""
        return next(rows for rows in self.tables if rows and rows[0][0] == first_cell)
