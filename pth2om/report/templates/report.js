(function () {
  "use strict";
  var root = document.documentElement;
  function kept(name) { try { return localStorage.getItem("pth2om." + name); } catch (error) { return null; } }
  function keep(name, value) { try { localStorage.setItem("pth2om." + name, value); } catch (error) { /* private window */ } }
  function each(selector, act) { Array.prototype.forEach.call(document.querySelectorAll(selector), act); }

  function speak(language) {
    root.setAttribute("data-lang", language);
    root.lang = language;
    document.title = root.getAttribute("data-title-" + language) || document.title;
  }
  function paint(theme) {
    if (theme === "light" || theme === "dark") { root.setAttribute("data-theme", theme); }
    else { root.removeAttribute("data-theme"); }
  }
  root.className += " has-js";
  var language = kept("lang");
  if (language === "en" || language === "zh") { speak(language); }
  paint(kept("theme"));

  document.addEventListener("DOMContentLoaded", function () {
    document.getElementById("lang").addEventListener("click", function () {
      var next = root.getAttribute("data-lang") === "zh" ? "en" : "zh";
      speak(next);
      keep("lang", next);
    });
    document.getElementById("theme").addEventListener("click", function () {
      var dark = root.getAttribute("data-theme") === "dark" ||
        (!root.hasAttribute("data-theme") && window.matchMedia("(prefers-color-scheme: dark)").matches);
      paint(dark ? "light" : "dark");
      keep("theme", dark ? "light" : "dark");
    });

    function reveal() {
      var target = location.hash && document.getElementById(location.hash.slice(1));
      if (target && target.tagName === "DETAILS") { target.open = true; target.scrollIntoView(); }
    }
    window.addEventListener("hashchange", reveal);
    reveal();

    var words = document.getElementById("find");
    var problems = document.getElementById("problems");
    function sift() {
      var sought = words.value.trim().toLowerCase();
      each("[data-name]", function (row) {
        var hide = (sought && row.getAttribute("data-name").toLowerCase().indexOf(sought) < 0) ||
          (problems.checked && !row.hasAttribute("data-bad"));
        row.classList.toggle("gone", Boolean(hide));
      });
      each("section.model", function (section) {
        section.classList.toggle("gone", !section.querySelector("[data-name]:not(.gone)"));
      });
    }
    if (words) { words.addEventListener("input", sift); problems.addEventListener("change", sift); }

    function copied(button, pre) {
      function done() { button.classList.add("p"); setTimeout(function () { button.classList.remove("p"); }, 1200); }
      var text = pre.querySelector("code").textContent;
      function byHand() {
        var range = document.createRange();
        range.selectNodeContents(pre.querySelector("code"));
        var selection = getSelection();
        selection.removeAllRanges();
        selection.addRange(range);
        try { if (document.execCommand("copy")) { done(); } } catch (error) { /* the text stays selected */ }
      }
      if (navigator.clipboard) { navigator.clipboard.writeText(text).then(done, byHand); } else { byHand(); }
    }
    document.addEventListener("click", function (event) {
      var button = event.target.closest && event.target.closest(".copy");
      if (button) { copied(button, button.parentNode); }
    });
    var label = document.getElementById("copy-label");
    each("pre.cmd", function (pre) {
      var button = document.createElement("button");
      button.type = "button";
      button.className = "copy";
      button.appendChild(label.content.cloneNode(true));
      pre.appendChild(button);
    });

    var opened = [];
    window.addEventListener("beforeprint", function () {
      var cards = document.querySelectorAll("details.card");
      if (cards.length > 24) { return; }
      each("details.card:not([open])", function (box) { opened.push(box); box.open = true; });
    });
    window.addEventListener("afterprint", function () {
      opened.forEach(function (box) { box.open = false; });
      opened = [];
    });
  });
})();
