"use strict";
// A button beside each block of lines to type. Without a script, or a clipboard, they are text to select.
if (navigator.clipboard) {
  for (const block of document.querySelectorAll(".command")) {
    const frame = document.createElement("div");
    frame.className = "with-copy";
    block.replaceWith(frame);
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.setAttribute("aria-live", "polite");
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(block.textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    frame.append(block, button);
  }
}
