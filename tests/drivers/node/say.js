// How a program says what it has seen, and where it finds its driver.
"use strict";

const modules = process.env.DRIVERS_NODE_MODULES;
exports.load = (name) => require(require.resolve(name, { paths: [modules] }));

const big = (_, value) => (typeof value === "bigint" ? `${value}n` : value);
// A line of these words.
const say = (...words) => console.log(words.map((w) => (typeof w === "string" ? w : JSON.stringify(w, big))).join(" "));
exports.say = say;

// Runs one part after another; one that fails does not keep the next from running.
exports.parts = async (parts) => {
  for (const part of parts) {
    say("==", part.name);
    try {
      await part();
    } catch (error) {
      say("== failed", error.name, error.code, error.message);
    }
  }
  say("== end");
};
