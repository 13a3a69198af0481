// A page of players alone, mostly in a frame of another page, whose height then follows its content.

document.addEventListener("DOMContentLoaded", () => {
  showClips();
  if (window.frameElement === null) return;
  const fit = () => { window.frameElement.style.height = `${Math.ceil(document.body.getBoundingClientRect().height)}px`; };
  new ResizeObserver(fit).observe(document.body);
});
