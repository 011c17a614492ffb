//! Shared kernel and user types.
#![no_std]
