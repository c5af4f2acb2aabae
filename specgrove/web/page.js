() => {
    // Follows the answer as it grows, unless the reader has scrolled up.
    const view = document.getElementById("conversation");
    const history = document.getElementById("history");
    if (!view || !history) return;
    view.tabIndex = 0;
    view.setAttribute("role", "region");
    view.setAttribute("aria-label", "Conversation");
    // Whole answers are told to screen readers, not every token of one that comes.
    history.setAttribute("role", "log");
    let isAtEnd = true;
    view.addEventListener("scroll", () => {
        isAtEnd = view.scrollHeight - view.scrollTop - view.clientHeight < 80;
    });
    new MutationObserver(() => {
        if (isAtEnd) view.scrollTop = view.scrollHeight;
    }).observe(view, { childList: true, subtree: true, characterData: true });
}
