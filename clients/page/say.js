// Numbers and tokens as texts.

const MINUS = '\u2212';

/** Three significant digits, as the server's pictures have them. `sign` writes + too. */
export function num(value, sign = false) {
  if (value === null || value === undefined || !Number.isFinite(value)) return '–';
  if (value === 0) return '0';
  const size = Math.abs(value);
  let text = size >= 1e5 || size < 1e-4 ? size.toExponential(2) : size >= 1000 ? size.toFixed(0) : size.toPrecision(3);
  if (text.includes('.') && !text.includes('e')) text = text.replace(/\.?0+$/, '');
  return (value < 0 ? MINUS : sign ? '+' : '') + text;
}

/** A mean and its standard error: the error to two digits, the mean to the same place. */
export function pm(mean, se, sign = false) {
  if (!Number.isFinite(mean) || mean === null) return '–';
  if (!(se > 0)) return num(mean, sign);
  const digits = Math.max(0, Math.min(12, 1 - Math.floor(Math.log10(se))));
  if (digits > 7) return `${num(mean, sign)} ± ${num(se)}`;
  const rounded = Math.abs(mean).toFixed(digits);
  const zero = Number(rounded) === 0;
  return `${zero ? '' : mean < 0 ? MINUS : sign ? '+' : ''}${rounded} ± ${se.toFixed(digits)}`;
}

/** A count, in groups of three digits. */
export const count = value => value.toLocaleString('en');

export const percent = value => `${num(value * 100)} %`;

/** Seconds in words. */
export function duration(seconds) {
  if (seconds < 10) return `${num(Math.max(0.1, Math.round(seconds * 10) / 10))} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${num(seconds / 3600)} h`;
}

/** A text with its spaces and line breaks visible, as in the server's pictures. */
export const visible = text => text.replaceAll(' ', '·').replaceAll('\n', '⏎').replaceAll('\t', '⇥');

export const capital = text => text.charAt(0).toUpperCase() + text.slice(1);

const ARMS = { hidden: 'Hidden state', mlp: 'MLP', attn: 'Attention' };
export const armName = name => ARMS[name] ?? name;

/** `logprob:target` of the target " Paris" in words, and its unit. */
export function metricName(metric, targets) {
  const [kind, of = ''] = metric.split(':');
  const text = name => {
    const [first, ...others] = targets?.[name] ?? [];
    return `“${visible(first?.text ?? name ?? '')}”${others.length ? ` or ${others.length} more` : ''}`;
  };
  const [a, b] = of.split('-');
  const names = {
    prob: [`P(${text(a)})`, ''], logprob: [`log P(${text(a)})`, 'nats'], logit: [`logit of ${text(a)}`, 'logits'],
    logit_diff: [`logit of ${text(a)} minus ${text(b)}`, 'logits'], prob_diff: [`P(${text(a)}) minus P(${text(b)})`, ''],
    rank: [`rank of ${text(a)}`, ''], top1: [`share in which ${text(a)} is most probable`, ''], kl: [`KL from ${of}`, 'nats'], top1_flip: ['share of flips', ''], delta_norm: ['size of the change', ''],
  };
  const [words, unit] = names[kind] ?? [metric, ''];
  return { words, unit };
}

/**
 * How each token of a prompt is written. A token that is part of a character (`<E5>`) is written as the character and which
 * part of it it is.
 */
export function labels(tokens, prompt) {
  const characters = [...prompt];
  return tokens.map((token, at) => {
    const whole = Number.isInteger(token.byte_start) && /<[0-9A-F]{2}>/.test(token.text) && !prompt.includes(token.text);
    if (!whole) return { text: visible(token.text), part: '' };
    const covers = other => other.start < Math.max(token.end, token.start + 1) && Math.max(other.end, other.start + 1) > token.start;
    const parts = tokens.map((_, i) => i).filter(i => covers(tokens[i]));
    const text = characters.slice(token.start, Math.max(token.end, token.start + 1)).join('');
    return { text, part: parts.length > 1 ? `${parts.indexOf(at) + 1}/${parts.length}` : '' };
  });
}

/** Whether a text runs from right to left: by its first letter. */
export const isRightToLeft = text => /^[^\p{L}]*[\p{Script=Arabic}\p{Script=Hebrew}]/u.test(text);
