// Follows a running run: asks the server for the page every REFRESH_SECONDS, and takes over the sections that have
// changed. See page.Section for what a section's script has to do with it.
(function () {
"use strict";

const status = document.createElement("p");
status.setAttribute("role", "status");
status.className = "live";
document.querySelector("header").append(status);
let tag = "", failures = 0;

function say(text) {
  if (status.textContent !== text) status.textContent = text;
}

function fields(section) {
  return [...section.querySelectorAll("input[id], select[id], details[id]")];
}

function replaceContent(old, fresh) {
  const values = new Map(fields(old).map(field => [field.id, field]));
  old.replaceChildren(...fresh.childNodes);
  const number = old.dataset.script;
  if (number !== undefined) {
    const script = document.createElement("script");
    script.textContent = document.querySelectorAll("body > script")[number].textContent;
    document.body.append(script);
    script.remove();
  }
  for (const field of fields(old)) {
    const before = values.get(field.id);
    if (!before) continue;
    if (field.tagName === "DETAILS") { field.open = before.open; continue; }
    if (field.type === "checkbox" || field.type === "radio") field.checked = before.checked;
    else field.value = before.value;
    field.dispatchEvent(new Event("input", {bubbles: true}));
    field.dispatchEvent(new Event("change", {bubbles: true}));
  }
}

const source = new WeakMap();  // the HTML that a section was last made of; scripts change what is shown

function take(text) {
  const fresh = new DOMParser().parseFromString(text, "text/html");
  const ours = [...document.querySelectorAll("main > section")];
  const theirs = [...fresh.querySelectorAll("main > section")];
  const title = section => section.querySelector("h2").textContent;
  if (ours.length !== theirs.length || ours.some((section, i) => title(section) !== title(theirs[i]))) {
    location.reload();  // there is a new section
    return;
  }
  document.querySelector("header > p").textContent = fresh.querySelector("header > p").textContent;
  ours.forEach((section, i) => {
    const html = theirs[i].innerHTML;
    if (source.get(section) === html) return;
    source.set(section, html);
    if (section.refresh) section.refresh(theirs[i]);
    else replaceContent(section, theirs[i]);
  });
}

async function ask() {
  try {
    const reply = await fetch(location.pathname, {headers: tag ? {"If-None-Match": tag} : {}, cache: "no-store"});
    if (reply.status === 200) {
      tag = reply.headers.get("ETag") || "";
      take(await reply.text());
    } else if (reply.status !== 304) {
      throw new Error(reply.statusText);
    }
    failures = 0;
    say(`Live: this page refreshes every ${REFRESH_SECONDS} seconds.`);
  } catch (error) {
    failures += 1;
    say("The server does not answer any more: this is the last state that it has sent.");
  }
  setTimeout(ask, 1000 * REFRESH_SECONDS * Math.min(8, 1 + failures));
}
ask();
}());
