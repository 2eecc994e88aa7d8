// Every text of the page that is not wholly visible, as JSON. What scrolls in its own box may be wider than it.
(() => {
  const found = [];
  const name = (one) => `${one.tagName.toLowerCase()} "${one.textContent.trim().slice(0, 60)}"`;
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) found.push(`the page scrolls sideways: ${root.scrollWidth} > ${root.clientWidth}`);
  const shown = (one) => one.checkVisibility() && one.getClientRects().length > 0;
  const hasText = (one) => [...one.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
  for (const one of document.body.querySelectorAll("*")) {
    if (!shown(one) || !hasText(one) || one.closest("svg, script, style, .prose thead")) continue;
    const box = one.getBoundingClientRect();
    if (one.clientWidth && one.scrollWidth > one.clientWidth + 1) found.push(`${name(one)} is wider than its box`);
    if (one.clientHeight && one.scrollHeight > one.clientHeight + 1) found.push(`${name(one)} is taller than its box`);
    if (!one.closest(".scroll") && (box.left < -0.5 || box.right > root.clientWidth + 0.5)) {
      found.push(`${name(one)} leaves the page`);
    }
  }
  for (const svg of document.querySelectorAll("svg")) {
    if (!shown(svg)) continue;
    const frame = svg.getBoundingClientRect();
    for (const text of svg.querySelectorAll("text")) {
      const box = text.getBoundingClientRect();
      const over = Math.max(frame.left - box.left, box.right - frame.right, frame.top - box.top, box.bottom - frame.bottom);
      if (over > 1) found.push(`${name(text)} leaves its figure ${svg.querySelector("title").textContent} by ${over} px`);
    }
  }
  return JSON.stringify(found);
})();
