//! Where a JSON value ends, and that it is one (RFC 8259), without making anything of it.
//!
//! What a backend answers is passed on byte for byte, so that all that has to be known of a result is that it is JSON. Nearly all of its
//! bytes are in strings, and most of those are plain: they are looked at many at a time, with the widest vectors that the processor has.
//! All of it but the loop over long strings is inlined into one function for each width, which `glance` chooses. What is found to be a
//! value here is one for every other reader too; the reverse is not promised.

#![allow(
    clippy::arithmetic_side_effects,
    reason = "a place in a slice is at most isize::MAX, and no step is longer than what was found there"
)]

use fearless_simd::prelude::*;
use fearless_simd::u8x64;

use crate::runtime::step_counter;

/// How many bytes of a string are looked at together: one bit each of a word.
const BLOCK: usize = 64;

/// The place behind the value that begins at `at`, or behind white space there; `None` when none does. `is_ascii` stays true only where
/// all of it is ASCII.
#[inline(always)]
pub(super) fn value<S: Simd>(simd: S, json: &[u8], mut at: usize, is_ascii: &mut bool) -> Option<usize> {
    // What closes each object and array that is open.
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

/// The place of the first byte from `at` on that is no white space.
pub(super) fn white_space(json: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\t' | b'\n' | b'\r') = json.get(at) {
        at += 1;
    }
    at
}

/// The place behind the key of an object at `at` and its colon.
#[inline(always)]
fn key<S: Simd>(simd: S, json: &[u8], at: usize, is_ascii: &mut bool) -> Option<usize> {
    let opening = json.get(at)?;
    let at = (*opening == b'"').then(|| string(simd, json, at + 1, is_ascii))??;
    let at = white_space(json, at);
    (json.get(at) == Some(&b':')).then_some(at + 1)
}

/// The place behind the closing quotation mark of the string whose first byte is at `at`.
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

/// The same for a string of any length. Not a part of its callers, so that the loop keeps all that it needs in registers.
///
/// What no string holds is only looked for once its end is known: the least byte of all says whether there is any.
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

/// The bytes at `at`. Behind the end of `json` stand zeros: control characters, at which no string goes on.
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

/// A bit for each byte of the block at `at` that ends the string, the first of which does; `None` when what stands before it is no
/// escape. `carried` is what `escaped` has to know of the block before.
///
/// No branch depends on where the usual escapes are. Text that holds JSON has one every few bytes, at places that no processor foresees.
#[inline(always)]
fn ends<S: Simd>(simd: S, json: &[u8], at: usize, block: u8x64<S>, carried: &mut u64) -> Option<u64> {
    let (quotes, backslashes) = (all(simd, block, b'"'), all(simd, block, b'\\'));
    let escaped = escaped(backslashes, carried);
    let ends = quotes & !escaped;
    // Nearly all escapes are these three.
    let usual = quotes | backslashes | all(simd, block, b'n');
    let others = escaped & before(ends) & !usual;
    (others == 0 || are_escapes(simd, json, at, block, others)).then_some(ends)
}

/// A bit for each byte before the first of `ends`.
#[inline(always)]
fn before(ends: u64) -> u64 {
    ends.wrapping_sub(1) & !ends
}

/// Whether all bytes are ASCII. What stands behind the end of a string counts, too: it may be taken for more than ASCII without harm.
#[inline(always)]
fn is_plain<S: Simd>(simd: S, largest: u8x64<S>) -> bool {
    largest.simd_lt(u8x64::splat(simd, 0x80)).to_bitmask() == u64::MAX
}

/// Whether the bytes `others` of the block at `at`, each behind a backslash, are what may stand there, the most usual ones left aside.
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

/// A bit for each control character, which no string holds; the first byte is the lowest bit.
#[inline(always)]
fn controls<S: Simd>(simd: S, block: u8x64<S>) -> u64 {
    block.simd_lt(u8x64::splat(simd, b' ')).to_bitmask()
}

/// A bit for each byte that is `byte`.
#[inline(always)]
fn all<S: Simd>(simd: S, block: u8x64<S>, byte: u8) -> u64 {
    block.simd_eq(u8x64::splat(simd, byte)).to_bitmask()
}

/// The bytes behind a backslash that is not itself behind one. `carried` is such a byte at the beginning of the block, and afterwards of
/// the next. The sum carries through each row of backslashes, so that its end tells whether the row's length is odd (simdjson, "Parsing
/// Gigabytes of JSON per Second", 3.1.1).
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

    /// Every width of vectors that this machine has finds the same, and nothing else than ASCII is taken for it.
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

    fn by_another_reader(json: &str) -> bool {
        serde_json::from_str::<serde::de::IgnoredAny>(json).is_ok()
    }

    #[test]
    fn what_another_reader_takes_for_json_is_json() {
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
            assert_eq!(whole(json), by_another_reader(json), "{json}");
        }
    }

    proptest! {
        #[test]
        fn any_text_of_jsons_own_characters_is_judged_alike(json in r#"[\[\]{}:,"\\ 01.eE+\-a-c\n]{0,24}"#) {
            prop_assert_eq!(whole(&json), by_another_reader(&json), "{}", json);
        }

        #[test]
        fn any_string_is_judged_alike_wherever_its_special_bytes_stand(text in r#"[ -~\\"\x00-\x20é]{0,150}"#) {
            let json = format!("\"{text}\"");
            prop_assert_eq!(whole(&json), by_another_reader(&json), "{}", json);
        }

        #[test]
        fn a_string_ends_where_it_ends(text in "\\PC{0,70}", behind in "\\PC{0,40}") {
            let json = serde_json::to_string(&text).unwrap();
            let length = json.len();
            prop_assert_eq!(end(&(json + &behind)), Some(length));
        }
    }
}
