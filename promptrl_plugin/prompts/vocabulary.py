"""Word lists that the edits of prose go by."""

from __future__ import annotations

__all__ = ["BEFORE_NOUN", "BEFORE_VERB", "FILLERS", "FUNCTION_WORDS", "LOGIC", "NO_NOUN", "NUMBER_WORDS", "TERMS"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Words of the trade: replacing, moving or dropping them changes the task or names a Python object.
TERMS = _words(
    """python none true false lambda def return int float str bool list lists tuple tuples dict dicts dictionary
    dictionaries set sets string strings substring substrings array arrays matrix matrices integer integers number
    numbers function functions boolean booleans character characters char chars key keys value values index indices
    element elements item items digit digits bit bits byte bytes ascii unicode regex regexes lowercase uppercase case
    prime primes odd even binary decimal hex hexadecimal octal sum sums product difference maximum minimum max min mean
    median mode average length size width height word words letter letters sentence vowel vowels consonant consonants
    palindrome anagram factorial fibonacci heap queue stack tree graph node nodes row rows column columns sort sorted
    ascending descending increasing decreasing order nested sublist sublists subarray subarrays sequence subsequence
    positive negative zero empty area volume perimeter surface radius diameter angle triangle square cube cubes squares
    rectangle circle sphere cylinder cone prism pyramid hexagon octagon tetrahedron ratio power root roots divisor
    divisors factor factors multiple multiples remainder modulo xor month months day days year years date time hour
    minute second seconds returns returned returning print prints printed input inputs output outputs natural ones
    zeroes zeros space spaces whitespace name names degree degrees right left lower upper absolute inverse prefix suffix
    multiply multiplication multiplied divide divided division add added addition subtract subtraction map mapping
    point points module snake numeric other coordinates price profit loss products distinct unique duplicate duplicates
    repeated individual ordered opposite reverse reversed shift rotate rotations range ranges"""
)
#: Numbers written out, and positions.
NUMBER_WORDS = _words(
    """one two three four five six seven eight nine ten eleven twelve hundred thousand million first second third
    fourth fifth sixth last next previous once twice thrice half double triple pair pairs nth kth ith single"""
)
#: Words that carry the logic of a sentence: never deleted, replaced or moved.
LOGIC = _words(
    """not no never none nor neither without non except unless only cannot can't don't doesn't isn't aren't if else
    otherwise than before after until when and or either both all any each every some least most more less greater
    smaller larger equal same different at exactly between consecutive respectively"""
)
#: Words that a description can do without.
FILLERS = _words(
    """a an the given specified provided certain particular specific respective corresponding supplied various simple
    please also just simply then well such said entire whole actual itself"""
)
#: Fillers, and words that mostly serve grammar.
FUNCTION_WORDS = FILLERS | _words(
    """of to is are was were be been being that which it its their there has have had will would should does do
    using"""
)
#: No noun begins with these, so an *a* before one of them is a variable.
NO_NOUN = _words("and or is are to then followed by in at of for from as with than")
#: After these a word that can be a verb is one.
BEFORE_VERB = _words("to that which and or must should can will not it")
#: After these a word is no verb.
BEFORE_NOUN = _words(
    "a an the given of in from two three each every all any its their this these by for with specified"
)
