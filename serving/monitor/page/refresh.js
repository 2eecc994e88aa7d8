// Reads the page again every few seconds, in place: what is open stays open, and selected text stays selected.
const late = document.getElementById("late");
const read = async () => {
  if (document.hidden || String(getSelection())) return;
  try {
    const answer = await fetch(location.pathname, { cache: "no-store" });
    if (!answer.ok) throw new Error(`it answers ${answer.status}`);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const one of document.querySelectorAll("details[open]")) fresh.getElementById(one.id)?.setAttribute("open", "");
    const focus = document.activeElement?.id;
    document.title = fresh.title;
    document.getElementById("status").replaceWith(fresh.getElementById("status"));
    if (focus) document.getElementById(focus)?.focus({ preventScroll: true });
    late.hidden = true;
  } catch (error) {
    late.textContent = `These numbers are old: the page could not be read again (${error.message}).`;
    late.hidden = false;
  }
};
setInterval(read, 1000 * Number(document.documentElement.dataset.every));
