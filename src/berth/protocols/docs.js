"use strict";
(() => {
  const form = document.getElementById("try");
  const status = document.getElementById("status");
  const answer = document.getElementById("answer");
  const command = document.getElementById("command");
  const origin = location.href.replace(/[?#].*$/, "").replace(/\/(docs)?$/, "");
  command.textContent = command.textContent.replace("ORIGIN", origin);

  const base64 = (file) => new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });

  const read = async (control) => {
    if (control.dataset.kind === "file") {
      const file = control.files[0];
      return file && { b64: await base64(file), name: file.name, content_type: file.type || "application/octet-stream" };
    }
    const text = control.value;
    if (control.dataset.kind === "text") return text;
    if (text.trim() === "") return undefined;
    try {
      return JSON.parse(text);
    } catch (error) {
      throw new Error(control.name + " is not valid JSON: " + error.message);
    }
  };

  const show = (text, bad) => {
    answer.hidden = false;
    answer.textContent = text;
    answer.classList.toggle("bad", bad);
  };

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button");
    button.disabled = true;
    status.textContent = "asking";
    try {
      const body = {};
      for (const control of form.querySelectorAll("[data-kind]")) {
        const value = await read(control);
        if (value !== undefined) body[control.name] = value;
      }
      const started = performance.now();
      const reply = await fetch(origin + "/predict", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
      });
      const text = await reply.text();
      status.textContent = reply.status + " in " + (performance.now() - started).toFixed(1) + " ms";
      let pretty = text;
      try { pretty = JSON.stringify(JSON.parse(text), null, 2); } catch { /* shown as it came */ }
      show(pretty, !reply.ok);
    } catch (error) {
      status.textContent = "";
      show(error.message, true);
    } finally {
      button.disabled = false;
    }
  });
})();
