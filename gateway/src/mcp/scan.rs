//! Finds the end of a JSON value, and validates it on the way (RFC 8259), without building anything.
//!
//! A backend's result is forwarded byte for byte, so all that the gateway must know is that it is JSON. Nearly all of its bytes are in
//! strings, and most of those are plain. So strings are scanned 64 bytes at a time with the widest SIMD vectors of the processor
//! (simdjson's algorithm). Everything but the loop over long strings is inlined into one function per vector width, which `fast_path`
//! selects; what that buys stands there. Every value that this accepts is valid JSON to other parsers; the reverse is not guaranteed.

#![allow(
    clippy::arithmetic_side_effects,
    reason = "a place in a slice is at most isize::MAX, and no step is longer than what was found there"
)]

use fearless_simd::prelude::*;
use fearless_simd::u8x64;

use crate::runtime::step_counter;

/// Number of string bytes per step, one bit of a word each.
const BLOCK: usize = 64;

/// Returns the position after the value that begins at or after `at`, with leading white space allowed; `None` if there is no valid value.
/// Clears `is_ascii` if the value is not ASCII.
#[inline(always)]
pub(super) fn value<S: Simd>(simd: S, json: &[u8], mut at: usize, is_ascii: &mut bool) -> Option<usize> {
    // Closing brackets of the open objects and arrays.
    let mut open: Vec<u8> = Vec::new();
    loop {
        step_counter::count(1);
        at = white_space(json, at);
        match *json.get(at)? {
            b'"' => at = string(simd, json, at + 1, is_ascii)?,
            b'{' => {
                at = white_space(json, at + 1);
                if json.get(at) == Some(&b'}') {
                    at += 1;
                } else {
                    at = key(simd, json, at, is_ascii)?;
                    open.push(b'}');
                    continue;
                }
            }
            b'[' => {
                at = white_space(json, at + 1);
                if json.get(at) == Some(&b']') {
                    at += 1;
                } else {
                    open.push(b']');
                    continue;
                }
            }
            b't' => at = word(json, at, b"true")?,
            b'f' => at = word(json, at, b"false")?,
            b'n' => at = word(json, at, b"null")?,
            _ => at = number(json, at)?,
        }
        loop {
            let Some(&closing) = open.last() else {
                return Some(at);
            };
            at = white_space(json, at);
            match *json.get(at)? {
                b',' if closing == b'}' => {
                    at = key(simd, json, white_space(json, at + 1), is_ascii)?;
                    break;
                }
                b',' => {
                    at += 1;
                    break;
                }
                byte if byte == closing => {
                    at += 1;
                    open.pop();
                }
                _ => return None,
            }
        }
    }
}

/// Returns the position of the first byte at or after `at` that is not white space.
pub(super) fn white_space(json: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\t' | b'\n' | b'\r') = json.get(at) {
        at += 1;
    }
    at
}

/// Returns the position after the key at `at` and its colon.
#[inline(always)]
fn key<S: Simd>(simd: S, json: &[u8], at: usize, is_ascii: &mut bool) -> Option<usize> {
    let opening = json.get(at)?;
    let at = (*opening == b'"').then(|| string(simd, json, at + 1, is_ascii))??;
    let at = white_space(json, at);
    (json.get(at) == Some(&b':')).then_some(at + 1)
}

/// Returns the position after the closing quote of the string whose content begins at `at`.
#[inline(always)]
pub(super) fn string<S: Simd>(simd: S, json: &[u8], at: usize, is_ascii: &mut bool) -> Option<usize> {
    let mut last = [0; BLOCK];
    let block = u8x64::from_slice(simd, block(json, at, &mut last)?);
    let ends = ends(simd, json, at, block, &mut 0)?;
    if ends == 0 {
        return long_string(simd, json, at, is_ascii);
    }
    *is_ascii &= is_plain(simd, block);
    let has_control = controls(simd, block) & before(ends) != 0;
    (!has_control).then(|| at + ends.trailing_zeros() as usize + 1)
}

/// As [`string`], for a string of any length. Not inlined, so that the loop keeps its state in registers.
///
/// Control characters, which are invalid in strings, are checked once at the end: the minimum of all bytes tells whether there was one.
#[inline(never)]
fn long_string<S: Simd>(simd: S, json: &[u8], at: usize, is_ascii: &mut bool) -> Option<usize> {
    simd.vectorize(
        #[inline(always)]
        || {
            let (mut at, mut carried) = (at, 0);
            let (mut least, mut largest) = (u8x64::splat(simd, u8::MAX), u8x64::splat(simd, 0));
            let mut last = [0; BLOCK];
            loop {
                let block = u8x64::from_slice(simd, block(json, at, &mut last)?);
                let ends = ends(simd, json, at, block, &mut carried)?;
                largest = largest.max(block);
                if ends == 0 {
                    least = least.min(block);
                    at += BLOCK;
                    continue;
                }
                *is_ascii &= is_plain(simd, largest);
                let has_control = controls(simd, block) & before(ends) != 0 || controls(simd, least) != 0;
                return (!has_control).then(|| at + ends.trailing_zeros() as usize + 1);
            }
        },
    )
}

/// The 64 bytes at `at`. Padded with zeros after the end of `json`: control characters, so no string continues there.
#[inline(always)]
fn block<'a>(json: &'a [u8], at: usize, last: &'a mut [u8; BLOCK]) -> Option<&'a [u8; BLOCK]> {
    let rest = json.get(at..)?;
    Some(match rest.first_chunk() {
        Some(bytes) => bytes,
        None => {
            last.get_mut(..rest.len())?.copy_from_slice(rest);
            last
        }
    })
}

/// Returns a bit per unescaped quote in the block at `at`, the first of which ends the string; `None` if an escape before it is invalid.
/// `carried` is the carry of `escaped` from the previous block.
///
/// Free of branches for the usual escapes. Text that contains JSON has one every few bytes, at positions that no branch predictor can
/// learn.
#[inline(always)]
fn ends<S: Simd>(simd: S, json: &[u8], at: usize, block: u8x64<S>, carried: &mut u64) -> Option<u64> {
    let (quotes, backslashes) = (all(simd, block, b'"'), all(simd, block, b'\\'));
    let escaped = escaped(backslashes, carried);
    let ends = quotes & !escaped;
    // Nearly all escapes are one of these three.
    let usual = quotes | backslashes | all(simd, block, b'n');
    let others = escaped & before(ends) & !usual;
    (others == 0 || are_escapes(simd, json, at, block, others)).then_some(ends)
}

/// A bit for each byte before the first of `ends`.
#[inline(always)]
fn before(ends: u64) -> u64 {
    ends.wrapping_sub(1) & !ends
}

/// Whether all bytes are ASCII. Bytes after the end of the string count, too; a false negative is harmless.
#[inline(always)]
fn is_plain<S: Simd>(simd: S, largest: u8x64<S>) -> bool {
    largest.simd_lt(u8x64::splat(simd, 0x80)).to_bitmask() == u64::MAX
}

/// Whether the bytes `others` of the block at `at`, each preceded by a backslash, complete a valid escape. The most usual escapes are not
/// among them.
#[inline(always)]
fn are_escapes<S: Simd>(simd: S, json: &[u8], at: usize, block: u8x64<S>, others: u64) -> bool {
    let unicode = all(simd, block, b'u');
    let letters = all(simd, block, b'/') | all(simd, block, b'b') | all(simd, block, b'f');
    let letters = letters | all(simd, block, b'r') | all(simd, block, b't') | unicode;
    if others & !letters != 0 {
        return false;
    }
    let mut unicode = others & unicode;
    while unicode != 0 {
        let digits = at + unicode.trailing_zeros() as usize + 1;
        let digits = json.get(digits..).and_then(|digits| digits.first_chunk::<4>());
        if !digits.is_some_and(|[a, b, c, d]| [a, b, c, d].into_iter().all(u8::is_ascii_hexdigit)) {
            return false;
        }
        unicode &= unicode - 1;
    }
    true
}

/// A bit for each control character. The lowest bit is the first byte.
#[inline(always)]
fn controls<S: Simd>(simd: S, block: u8x64<S>) -> u64 {
    block.simd_lt(u8x64::splat(simd, b' ')).to_bitmask()
}

/// A bit for each byte equal to `byte`.
#[inline(always)]
fn all<S: Simd>(simd: S, block: u8x64<S>, byte: u8) -> u64 {
    block.simd_eq(u8x64::splat(simd, byte)).to_bitmask()
}

/// A bit for each escaped byte: preceded by an odd number of backslashes. `carried` is the carry between blocks. The addition carries
/// through each run of backslashes, so that its end shows whether the run's length is odd (simdjson, "Parsing Gigabytes of JSON per
/// Second", 3.1.1).
#[inline(always)]
fn escaped(backslashes: u64, carried: &mut u64) -> u64 {
    const EVEN: u64 = 0x5555_5555_5555_5555;
    let backslashes = backslashes & !*carried;
    let behind = backslashes << 1 | *carried;
    let odd_starts = backslashes & !EVEN & !behind;
    let (rows, overflow) = odd_starts.overflowing_add(backslashes);
    *carried = u64::from(overflow);
    (EVEN ^ rows << 1) & behind
}

fn word(json: &[u8], at: usize, word: &[u8]) -> Option<usize> {
    json.get(at..)?.starts_with(word).then_some(at + word.len())
}

fn number(json: &[u8], mut at: usize) -> Option<usize> {
    let digits = |at: usize| {
        let rest = json.get(at..).unwrap_or_default();
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        (digits > 0).then_some(at + digits)
    };
    if json.get(at) == Some(&b'-') {
        at += 1;
    }
    at = match json.get(at)? {
        b'0' => at + 1,
        _ => digits(at)?,
    };
    if json.get(at) == Some(&b'.') {
        at = digits(at + 1)?;
    }
    if let Some(b'e' | b'E') = json.get(at) {
        at += 1;
        if let Some(b'+' | b'-') = json.get(at) {
            at += 1;
        }
        at = digits(at)?;
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use fearless_simd::{Level, dispatch};
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::*;

    /// Checks that all vector widths of this machine agree, and that only ASCII counts as ASCII.
    fn end(json: &str) -> Option<usize> {
        let (text, mut is_ascii, mut same) = (json, true, true);
        let json = json.as_bytes();
        let widest = dispatch!(Level::new(), simd => value(simd, json, 0, &mut is_ascii));
        let narrowest = dispatch!(Level::baseline(), simd => value(simd, json, 0, &mut same));
        assert_eq!((widest, is_ascii), (narrowest, same));
        if let Some(end) = widest {
            assert!(!is_ascii || json[..end].is_ascii(), "{text}");
            assert!(is_ascii || !json.is_ascii(), "{text}");
        }
        widest
    }

    fn whole(json: &str) -> bool {
        end(json).is_some_and(|end| white_space(json.as_bytes(), end) == json.len())
    }

    fn by_serde_json(json: &str) -> bool {
        serde_json::from_str::<serde::de::IgnoredAny>(json).is_ok()
    }

    #[test]
    fn scanner_agrees_with_serde_json() {
        for json in [
            "0",
            "-0.5e+10",
            "1E9",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "+1",
            "true",
            "tru",
            "nulls",
            r#""""#,
            r#"""#,
            r#"" \u00e9 \" \\ \/ \b\f\n\r\t ""#,
            r#""\u12g4""#,
            r#""\u123""#,
            r#""\x""#,
            "\"\t\"",
            "\"\u{1f}\"",
            "\"\u{7f}\u{e9}\u{1f600}\"",
            "[]",
            "[ ]",
            "[1,]",
            "[,1]",
            "[1 2]",
            "[1, 2 ,[3]]",
            "{}",
            "{ }",
            r#"{"a":1}"#,
            r#"{"a":1,}"#,
            r#"{"a" 1}"#,
            r#"{a:1}"#,
            r#"{"a":}"#,
            r#"{"a":{"b":[{}]}}"#,
            "[1}",
            "{]",
            "",
            " ",
            "[",
            "{",
            r#"{"a""#,
            r#"{"a":"#,
            "[[[[",
            "]",
            r#""abcdefghijklmnopqrstuvwxyz"#,
            r#""abcdefghijklmnopqrstuvwxyz""#,
            r#""abcdefghijklmno\"#,
        ] {
            assert_eq!(whole(json), by_serde_json(json), "{json}");
        }
    }

    proptest! {
        #[test]
        fn scanner_agrees_on_structural_characters(json in r#"[\[\]{}:,"\\ 01.eE+\-a-c\n]{0,24}"#) {
            prop_assert_eq!(whole(&json), by_serde_json(&json), "{}", json);
        }

        #[test]
        fn scanner_agrees_on_strings_with_special_bytes(text in r#"[ -~\\"\x00-\x20é]{0,150}"#) {
            let json = format!("\"{text}\"");
            prop_assert_eq!(whole(&json), by_serde_json(&json), "{}", json);
        }

        #[test]
        fn end_of_string_is_found(text in "\\PC{0,70}", behind in "\\PC{0,40}") {
            let json = serde_json::to_string(&text).unwrap();
            let length = json.len();
            prop_assert_eq!(end(&(json + &behind)), Some(length));
        }
    }
}
