//! Tokens and chat templates against other people's programs, broken files and hard texts.

mod broken;
mod chat;
mod constraint;
mod data;
mod hard;
mod languages;
mod pieces;
mod real_templates;
mod tokens;
