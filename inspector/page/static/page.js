// Small things that every page may need.
"use strict";
(() => {
  // filters answer at once; the button stays for those without script
  document.addEventListener("change", (event) => {
    const form = event.target.closest("form[data-submits]");
    if (form) form.requestSubmit();
  });
  // empty fields need not stand in the address
  document.addEventListener("formdata", (event) => {
    if (!event.target.matches("form[data-submits]")) return;
    for (const [name, value] of [...event.formData]) if (value === "") event.formData.delete(name);
  });
  // pictures that are not kept any more: no broken frames. Errors of images do not bubble, so they are captured.
  document.addEventListener("error", (event) => {
    if (event.target instanceof HTMLImageElement) event.target.closest(".thumb, .picture")?.classList.add("gone");
  }, true);
})();
