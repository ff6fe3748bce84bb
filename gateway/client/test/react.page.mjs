// A page with React, for the browser's tests.
import { StrictMode, createElement as h } from "react";
import { createRoot } from "react-dom/client";
import { connect } from "../lib/index.js";
import { useAnswer } from "../lib/react.js";

const { gateway, query, options } = JSON.parse(document.querySelector("meta[name=test]").content);
const sluice = connect(gateway);

function Ask({ name }) {
  const { text, state, busy, error, result, ask, cancel } = useAnswer(sluice, name);
  return h("section", { id: name },
    h("button", { className: "ask", disabled: busy, onClick: () => ask(`${name} ${query}`, options) }, "Ask"),
    h("button", { className: "cancel", disabled: !busy, onClick: cancel }, "Cancel"),
    h("p", { className: "text" }, text),
    h("p", { className: "state" }, error ? error.code : result ? `${state} ${result.verified} ${result.usage.output}` : state));
}

createRoot(document.querySelector("main")).render(h(StrictMode, null, h(Ask, { name: "left" }), h(Ask, { name: "right" })));
