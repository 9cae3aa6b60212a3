//! A client that speaks bytes: messages, and conversations that can be held at a server and at the
//! proxy with the same words.

#![allow(dead_code, reason = "each binary uses a part")]

pub mod compare;
pub mod message;
pub mod stage;
mod talk;

pub use talk::{Cut, End, Frame, Heard, Place, Step, converse};
