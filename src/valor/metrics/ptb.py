"""Penn Treebank tokens of English captions, as the COCO caption evaluation cuts them.

The published caption metrics are defined on the output of Stanford's PTBTokenizer 3.4.1 (a Java
program) with `-lowerCase`, from which a list of punctuation tokens is removed. `tokenize` follows
its rules in plain Python for caption-like text: clitics (`man 's`, `do n't`), hyphenated words,
numbers, slashes, brackets, common abbreviations and American spelling. Left out: web and mail
addresses, telephone numbers, markup and rare abbreviations.
"""

import re
from functools import lru_cache

_CLITIC = r"'(?:s|m|d|re|ve|ll)(?![a-z])"

# What matches nothing here (commas, quotes, single marks, dashes, emoji) is what is removed.
_TOKEN = re.compile(
    rf"""
      (?:mr|mrs|ms|drs?|prof|st|mt|lt|sgt|col|gen|capt|jr|sr|vs|etc|inc|co|corp|ltd|dept)\.
    | [a-z](?:\.[a-z])+(?![a-z0-9])\.?                                # u.s.  p.m.
    | [a-z0-9]+(?:-[a-z]+){{0,2}}(?:/[a-z0-9]+(?:-[a-z]+){{0,2}}){{1,2}}  # and/or  1/2  3/4/2015
    | [a-z]*[a-mo-z](?=n't(?![a-z])) | n't(?![a-z])                   # do|n't
    | [a-z]+[aeiouy]'[aeiou][a-z]* | c'mon | y'(?=[a-z])(?!{_CLITIC[1:]})   # ma'am  y'|all
    | [a-z0-9][a-z0-9.,]*(?:-[a-z0-9]+)+                              # t-shirt  30,000-foot
    | [-+]?\d*(?:[.:,]\d+)+ | [-+]\d+                                 # 3.5  10:30  -5
    | (?:[dol]'(?!{_CLITIC[1:]})(?=[a-z0-9]))?[^\W_]+(?:[-_][^\W_]+)* # dog  o'clock  7th
    | {_CLITIC}
    | '(?:em|till?|cause|tis|twas)(?![a-z]) | 'n'?(?![a-z]) | '[1-9]0s | '\d\d(?!\S)
    | [@\#][a-z_]\w*
    | [?!]{{2,}} | [()\[\]{{}}] | [*]+ | [@]+ | [\#]+ | _+
    | [$%&+=~^|/\\<>°£€¢]
    """,
    re.VERBOSE | re.IGNORECASE,
)
_APOSTROPHES = str.maketrans("\u2019\u2018\u201b\u00b4\u2010\u2011", "''''--")
# The COCO list names "-LRB-", but the tokens are in lower case by then: brackets stay words.
_REWRITTEN = {
    **{"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"},
    **{"£": "#", "€": "$", "¢": "cents"},
}
_SPLIT_AFTER = {
    **{"cannot": 3, "gonna": 3, "gotta": 3, "wanna": 3, "lemme": 3, "gimme": 3},
    **{"'tis": 2, "'twas": 2},
}

_AMERICAN_PAIRS = (
    "grey gray kerb curb centre center theatre theater theatres theaters fibre fiber fibres fibers "
    "meagre meager defence defense manoeuvre maneuver manoeuvres maneuvers practise practice "
    "practised practiced leant leaned learnt learned cancelled canceled cancelling canceling "
    "labelled labeled labelling labeling travelled traveled travelling traveling analogue analog "
    "analogues analogs analyse analyze analysed analyzed analysing analyzing programme program "
    "programmes programs organisation organization organisations organizations"
)
_AMERICAN = dict(re.findall(r"(\w+) (\w+)", _AMERICAN_PAIRS))
_OUR = re.compile(r"^([a-z]{3,})our(s?)$")
_OUR_KEPT = re.compile(
    r"bonjour|carrefour|contour|cornflour|de[tv]our|glamour|paramour|(?:down|in|out)pour|"
    r"pompadour|tambour|troubadour|velour"
)
_OUR_INSIDE = re.compile(
    r"^((?:dis)?col|arm|endeav|fav|flav|hon|hum|lab|neighb|rum|sav)our"
    r"(ed|ing|ful|able|ites?|hoods?)$"
)
_ISE = re.compile(
    r"^(capital|final|local|maxim|minim|modern|penal|popular|pressur|real|recogn)is(e[ds]?|ing)$"
)


def tokenize(text: str) -> list[str]:
    """Cut a caption into lower-case Penn Treebank tokens without punctuation."""
    return [token for word in text.split() for token in _tokens(word)]


@lru_cache(maxsize=1 << 16)
def _tokens(word: str) -> tuple[str, ...]:
    """Tokens of a stretch without space, which no token reaches beyond."""
    tokens: list[str] = []
    for match in _TOKEN.finditer(word.translate(_APOSTROPHES)):
        token = _american(match.group()).lower()
        token = _REWRITTEN.get(token, token).replace("/", r"\/").replace("*", r"\*")
        cut = _SPLIT_AFTER.get(token, len(token))
        tokens += [token[:cut], token[cut:]] if cut < len(token) else [token]
    return tuple(tokens)


def _american(word: str) -> str:
    """American spelling, of words in lower case only, as the Java program does it."""
    if word in _AMERICAN:
        return _AMERICAN[word]
    if not _OUR_KEPT.search(word):
        word = _OUR.sub(r"\1or\2", word)
    return _ISE.sub(r"\1iz\2", _OUR_INSIDE.sub(r"\1or\2", word))
