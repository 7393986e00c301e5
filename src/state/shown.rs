//! Texts from outside as they are shown: nothing in them moves a cursor, hides, or goes on for ever.

/// The most characters of a message, label or help.
const MESSAGE: usize = 600;

/// A text from outside fit for a message: on one line, escaped, and not too long.
pub(crate) fn clean(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars().take(MESSAGE) {
        push_visible(&mut shown, c);
    }
    if text.chars().nth(MESSAGE).is_some() {
        shown.push('…');
    }
    shown
}

/// Adds a character as it is shown: a tab as four spaces, what would move the cursor or hide as an escape.
pub(crate) fn push_visible(shown: &mut String, c: char) {
    match c {
        '\t' => shown.push_str("    "),
        _ if c.is_control() => shown.extend(c.escape_default()),
        // Zero-width, direction and line-separating characters, and the byte order mark.
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' => {
            shown.extend(c.escape_unicode());
        }
        _ => shown.push(c),
    }
}
