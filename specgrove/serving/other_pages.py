"""Which requests of a browser come from pages of other sites: it sends passwords along with them, and answers go where nobody sees them.

Used by what serves pages: the router (``router.http.page``) and the chat page itself (``specgrove.web.server``).
"""

from __future__ import annotations

from collections.abc import Mapping

REFUSAL = "another site's page may not do this"
_SAME_SITE = ("same-origin", "none")


def is_of_other_page(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a browser asks for a page of another site or port; ``headers`` have names in small letters. Links may lead here."""
    site = headers.get("sec-fetch-site")
    if site is None:  # clients that are no browsers, and browsers where the page has no TLS
        origin = headers.get("origin")
        return origin is not None and origin.partition("://")[2] != headers.get("host")
    is_link = method == "GET" and headers.get("sec-fetch-mode") == "navigate"
    return site not in _SAME_SITE and not is_link
