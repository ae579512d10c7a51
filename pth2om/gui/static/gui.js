"use strict";
(() => {
  const word = (zh, en) => (document.documentElement.lang === "zh" ? zh : en);
  const pause = (work, wait) => { let timer; return () => { clearTimeout(timer); timer = setTimeout(work, wait); }; };

  // Part of a page; of a page that says what is wrong, what it says.
  const part = async (address) => {
    const answer = await fetch(address);
    const html = await answer.text();
    return answer.ok ? html : new DOMParser().parseFromString(html, "text/html").querySelector(".problem")?.outerHTML || "";
  };
  const gone = () => {
    const line = document.createElement("p");
    line.className = "problem"; line.textContent = word("服务器没有应答。请重新加载页面。", "The server does not answer. Load the page again.");
    return line;
  };

  // A line to copy gets a button.
  for (const line of document.querySelectorAll("pre.cmd")) {
    const button = document.createElement("button");
    button.type = "button"; button.className = "copy"; button.textContent = word("复制", "Copy");
    button.addEventListener("click", async () => {
      const text = [...line.childNodes].filter((node) => node !== button).map((node) => node.textContent).join("");
      await navigator.clipboard.writeText(text);
      button.textContent = word("已复制", "Copied");
    });
    line.append(button);
  }

  // Tables sort by their heads.
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button"; button.className = "sort"; button.append(...head.childNodes); head.append(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const key = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
        const rows = [...table.tBodies[0].rows].sort((a, b) => {
          const [x, y] = [key(a), key(b)];
          const order = x !== "" && y !== "" && !isNaN(x) && !isNaN(y) ? x - y : x.localeCompare(y, undefined, { numeric: true });
          return up ? order : -order;
        });
        table.tBodies[0].append(...rows);
      });
    });
  }

  // The lines of a form, as it is filled in.
  const form = document.querySelector("form[data-preview]");
  if (form) {
    let asked = 0, latest = "";
    const atc = document.getElementById("atc");
    const working = atc ? atc.firstChild.textContent : "";  // before the button
    const show = (answer) => {
      if (answer.problem && atc) answer = { atc: "", ...answer };
      for (const [name, text] of Object.entries(answer)) {
        const place = document.getElementById(name);
        if (!place) continue;
        const button = place.querySelector("button.copy");
        place.textContent = text;
        if (name !== "problem") place.hidden = !text;
        if (button) place.append(button);
        if (name === "problem") place.hidden = !text;
      }
    };
    const ask = async (target, mine) => {
      try {
        const answer = await fetch(target, { method: "POST", body: new URLSearchParams(new FormData(form)) });
        if (answer.ok && mine === asked) show(await answer.json());
      } catch (error) { latest = ""; /* the server is gone; the form stays */ }
    };
    // By getAttribute: a field named "dataset" or "action" hides the form's own property of that name.
    const [now, afterwards] = ["data-preview", "data-later"].map((name) => form.getAttribute(name));
    const later = pause(() => ask(afterwards, asked), 700);
    const quick = () => {
      const body = String(new URLSearchParams(new FormData(form)));
      if (body === latest) return;
      latest = body;
      asked += 1;
      ask(now, asked);
      // What stood there belongs to another form; nobody is to copy it.
      if (afterwards) { show({ atc: working }); later(); }
    };
    form.addEventListener("input", pause(quick, 150));
    form.addEventListener("change", pause(quick, 150));
    quick();
  }

  // What the chosen file says: its shapes stand in the empty fields, and its own classes are asked about in words.
  const seen = document.getElementById("seen");
  const chosenFile = document.getElementById("f-file");
  if (seen && chosenFile) {
    const trust = document.getElementById("trust");
    let latest = "";
    const read = async () => {
      const path = chosenFile.value.trim();
      if (path === latest) return;
      latest = path;
      seen.hidden = trust.hidden = true;
      for (const field of trust.querySelectorAll("input")) { field.disabled = true; field.checked = false; }
      if (!path) return;
      let answer;
      try { answer = await (await fetch(`/look?${new URLSearchParams({ path })}`)).json(); } catch (error) { return; }
      if (path !== latest) return;
      const lines = [...(answer.said || []), ...(answer.problem ? [answer.problem] : [])];
      seen.replaceChildren(...lines.map((text) => { const line = document.createElement("p"); line.className = "lines"; line.textContent = text; return line; }));
      seen.hidden = !lines.length;
      const shape = answer.inputs && answer.inputs.length ? answer.inputs[0].shape : [];
      const hint = (name, value) => {
        const field = document.getElementById(`f-${name}`);
        if (field) field.placeholder = value ? seen.dataset.readOff.replace("%", () => value) : "";
      };
      hint("channels", shape.length > 1 ? shape[0] : "");
      hint("size", shape.slice(1).join(","));
      hint("num_classes", answer.classes);
      const template = document.getElementById("f-template");
      template.disabled = ["module", "torchscript", "onnx"].includes(answer.family);
      if (answer.family === "foreign-module") {
        trust.hidden = false;
        trust.querySelector("p").textContent = seen.dataset.trust.replace("%", () => answer.foreign);
        for (const field of trust.querySelectorAll("input")) field.disabled = false;
        trust.querySelector("[name=trusted]").value = answer.foreign;
      }
      chosenFile.dispatchEvent(new Event("input", { bubbles: true }));
    };
    chosenFile.addEventListener("change", read);
    chosenFile.addEventListener("input", pause(read, 400));
    read();
  }

  // Calibration images as the net sees them, when somebody looks.
  const sheet = document.getElementById("sheet");
  if (sheet) {
    let shown = "";
    const show = async () => {
      if (!sheet.open) return;
      const value = (name) => document.getElementById(`f-${name}`)?.value.trim().split("\n")[0] || "";
      const picture = sheet.querySelector("img"), trouble = sheet.querySelector(".problem");
      const query = new URLSearchParams({ folder: value("calib"), recipe: value(sheet.dataset.sheet) });
      if (sheet.dataset.sheet === "recipe") {
        query.set("loose", "on");
        for (const name of ["file", "size", "color", "mean", "std", "scale", "resize"]) query.set(name, value(name));
      }
      const address = `/picture/sheet?${query}`;
      if (address === shown) return;
      shown = address;
      const answer = await fetch(address);
      if (address !== shown) return;
      picture.hidden = !answer.ok; trouble.hidden = answer.ok;
      if (answer.ok) { picture.src = address; return; }
      const text = await answer.text();
      trouble.textContent = answer.status === 422 ? text : new DOMParser().parseFromString(text, "text/html").querySelector(".problem")?.textContent.trim() || text;
    };
    sheet.addEventListener("toggle", show);
    document.addEventListener("change", show);
  }

  // What takes a moment is filled in when it is there.
  for (const place of document.querySelectorAll("[data-fill]")) {
    part(place.dataset.fill).then((html) => { place.innerHTML = html; }).catch(() => place.replaceChildren(gone()));
  }

  // Fields that belong to one choice are shown with it.
  const chosen = () => {
    for (const part of document.querySelectorAll("[data-when]")) {
      const [name, value] = part.dataset.when.split("=");
      const box = document.querySelector(`[name="${name}"]:checked`);
      part.hidden = !(box && value.split(" ").includes(box.value));
      for (const field of part.querySelectorAll("input,select,textarea")) field.disabled = part.hidden;
    }
  };
  if (document.querySelector("[data-when]")) { document.addEventListener("change", chosen); chosen(); }

  // A job reports until it is over; then the page shows its results.
  const standing = document.querySelector("[data-events]");
  if (standing) {
    const source = new EventSource(standing.dataset.events);
    const log = document.getElementById("log");
    let fresh = true;
    source.addEventListener("open", () => { fresh = true; });
    source.addEventListener("standing", (event) => { standing.innerHTML = JSON.parse(event.data); });
    source.addEventListener("log", (event) => {
      const low = log.scrollTop + log.clientHeight >= log.scrollHeight - 30;
      log.append(JSON.parse(event.data));
      if (low) log.scrollTop = log.scrollHeight;
    });
    source.addEventListener("over", () => { source.close(); location.reload(); });
    source.addEventListener("error", () => { if (fresh) { fresh = false; source.close(); setTimeout(() => location.reload(), 1500); } });
  }

  // The picker: folders of the server in a dialog.
  const picker = document.getElementById("picker");
  let target = null;
  const look = async (query) => {
    try { picker.innerHTML = await part(`/pick?${query}`); } catch (error) { picker.replaceChildren(gone()); }
    if (!picker.querySelector("[data-close]")) {
      const close = document.createElement("button");
      close.type = "button"; close.dataset.close = "1"; close.textContent = word("关闭", "Close");
      picker.append(close);
    }
    (picker.querySelector("[autofocus]") || picker.querySelector("button")).focus();
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.pick");
    if (button) {
      target = document.getElementById(button.dataset.pick);
      picker.dataset.folder = button.dataset.folder;
      const now = target.value.trim().split("\n").pop();
      picker.showModal();
      look(new URLSearchParams({ folder: button.dataset.folder, dir: now }));
    }
  });
  picker.addEventListener("click", (event) => {
    const line = event.target.closest("[data-dir],[data-path],[data-close]");
    if (!line) return;
    if (line.dataset.dir !== undefined) look(new URLSearchParams({ folder: picker.dataset.folder, dir: line.dataset.dir, page: line.dataset.page || "" }));
    else {
      if (line.dataset.path) {
        const rows = target.tagName === "TEXTAREA" && target.value.trim() ? [target.value.trim()] : [];
        target.value = [...rows, line.dataset.path].join("\n");
        target.dispatchEvent(new Event("change", { bubbles: true }));
      }
      picker.close(); target.focus();
    }
  });

  // A file dropped on the page is sent.
  const drop = document.querySelector(".drop");
  if (drop) {
    const input = drop.querySelector("input[type=file]");
    const send = () => { if (input.files.length) drop.requestSubmit(); };
    input.addEventListener("change", send);
    drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
    drop.addEventListener("dragleave", () => drop.classList.remove("over"));
    drop.addEventListener("drop", (event) => {
      event.preventDefault(); drop.classList.remove("over");
      input.files = event.dataTransfer.files; send();
    });
  }

  // One press is one job: the server knows that too, this spares the second request.
  const sent = new WeakSet();
  for (const each of document.querySelectorAll("form")) {
    each.addEventListener("submit", (event) => {
      if (sent.has(each)) event.preventDefault();
      sent.add(each);
      setTimeout(() => sent.delete(each), 3000);
    });
  }
})();
