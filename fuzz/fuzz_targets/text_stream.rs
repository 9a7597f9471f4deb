//! Stop texts: the shown text does not depend on where the pieces end.
#![no_main]

use hetero_llama::text_stream::StopStrings;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (String, Vec<String>, Vec<u8>)| {
    let (text, stops, cuts) = input;
    let mut whole = StopStrings::new(&stops);
    let mut expected = whole.push(&text);
    expected.push_str(&whole.finish());

    let mut pieces = StopStrings::new(&stops);
    let mut shown = String::new();
    let mut rest = text.as_str();
    for cut in cuts {
        let mut cut = usize::from(cut).min(rest.len());
        while !rest.is_char_boundary(cut) {
            cut += 1;
        }
        let (piece, after) = rest.split_at(cut);
        shown.push_str(&pieces.push(piece));
        rest = after;
    }
    shown.push_str(&pieces.push(rest));
    shown.push_str(&pieces.finish());
    assert_eq!(shown, expected);
    assert_eq!(pieces.is_stopped(), whole.is_stopped());
});
