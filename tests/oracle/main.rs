//! Comparisons with what other programs computed. Each data file was made by the script that its test
//! names.

mod quant;
