//! Data sets: JSON, JSON lines and CSV. What is stored is read again as the same.

use mediant::capacity::Abandoned;
use mediant::http::Form;

use crate::choose;

pub(crate) fn run(data: &[u8]) {
    let (form, body) = choose(data);
    let form = [Form::Json, Form::Lines, Form::Csv][form % 3];
    let Ok(cases) = form.read(body, &Abandoned::default()) else { return };
    assert!(cases.len > 0 && cases.text.lines().count() == cases.len);
    let again = Form::Lines.read(cases.text.as_bytes(), &Abandoned::default());
    assert_eq!(again.expect("what is stored can be read"), cases);
}
