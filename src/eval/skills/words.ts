/**
 * Plain words for exercises: common enough that a small vocabulary trained on novels holds most of
 * them as one or two tokens. No word stands twice in a list.
 */

const list = (words: string): readonly string[] => words.trim().split(/\s+/);

export const names = list(`
  Alan Alice Amy Ann Anna Arthur Ben Beth Bill Bob Charles Dan David Dick Dora Edward Ellen Emma
  Frank Fred Grace Harriet Harry Helen Henry Jack James Jane Jenny Jim Joan Joe John Kate Lily
  Louis Lucy Maria Mark Martha Martin Mary Max May Meg Molly Nancy Ned Nick Nora Paul Peter Philip
  Robert Rose Ruth Sally Sam Susan Ted Thomas Tim Tom Walter William
`);

export const places = list(`
  America Athens Bath Berlin Boston Bristol Cairo Canada Chester China Crete Cuba Dover Dublin
  Egypt England France Greece Holland Hull India Ireland Italy Japan Kent Leeds London Madrid
  Milan Naples Norway Oxford Paris Peru Poland Rome Scotland Spain Sweden Texas Turin Turkey
  Venice Wales Warsaw York
`);

/** What a person may be: "the old baker". */
export const jobs = list(`
  actor artist baker banker barber beggar butcher captain carpenter cook doctor driver duke earl
  farmer fisherman gardener guard hermit hunter judge king lady maid merchant miner monk nurse
  painter poet postman priest prince printer queen sailor servant singer smith soldier squire
  stranger student tailor teacher witch writer
`);

export const adjectives = list(`
  angry big bitter black blue brave bright broken brown calm cheap clean clever cold common cool
  dark dead deep dry dull empty famous fat fine foolish free fresh gentle gold good grand great
  green grey happy hard heavy high honest hot kind large late light little long lost loud low mad
  narrow new noble old open pale plain pleasant poor pretty proud quick quiet rare red rich rough
  round rude sad safe sharp short sick silent silver simple slow small smooth soft sour square
  steady stiff strange strong sweet tall thick thin tired true warm weak wet white wide wild wise
  wonderful yellow young
`);

export const nouns = list(`
  answer apple arm army arrow bag ball band bank barn basket battle beach bear bed bee bell bird
  blood board boat body bone book boot bowl box boy bread breakfast breath brother brush bucket
  butter button cabin cake camp candle cap card carpet carriage cart castle cat chain chair child
  church circle clock cloth cloud club coat coin corner cottage country cow cross crowd crown cup
  dance daughter desk dinner dish dog door dream dress drum duck dust ear earth egg engine evening
  eye face family farm father feather fence field finger fire fish flag floor flower foot forest
  fork fox friend frog garden gate gift girl glass glove goat grain grass grave ground gun hair
  hall hammer hand hat head heart hill hole honey hook horn horse hotel hour house ice iron island
  journey key knee knife lake lamb lamp lane leaf leather leg lemon letter lion lip lock map
  market mat meal meat milk mill money monkey moon morning mountain mouse mouth nail neck needle
  nest net night nose nut oak ocean office oil onion oven page palace paper park party path pen
  pepper picture pig pin pipe plate pocket pond pool pot prison purse rain rat rice ring river
  road rock roof room root rope sail salt sand school sea seed shadow sheep shell ship shirt shoe
  shop shore shoulder sister skin sky smoke snake snow soap song spider spoon spring star station
  steam stick stone storm story stove stream street sugar summer sun supper sword table tail tea
  temple tent thread thumb timber tin tongue tool tooth tower town toy train tray tree trunk
  vessel village violin voice wall watch water wave wheel whip wind window wine wing winter wood
  wool world yard
`);

/** What one thing may have done to another: "the fox found the boat". */
export const verbs = list(`
  asked bought broke brought called carried caught chose covered cut drew drove feared felt
  followed forgot found held helped hid kept knew left liked lost loved made met missed moved
  needed opened passed pulled pushed reached remembered saved saw sold stole struck took touched
  turned wanted washed watched
`);

export const colours = list(`
  black blue brown gold green grey orange pink purple red scarlet silver violet white yellow
`);

export const flowers = list(`
  bluebell clover fern heather iris ivy lilac lily lotus marigold orchid pansy poppy rose
  sunflower thistle tulip violet
`);

export const animals = list(`
  bear bee bird cat cow deer dog donkey duck eagle elephant fish fox frog goat goose horse lamb
  lion monkey mouse owl pig rabbit rat raven sheep snake spider swan tiger wolf
`);

export const foods = list(`
  bacon beef bread butter cake cheese chicken corn cream fish ham honey lamb meat melon milk
  mutton peach pie plum pudding rice soup sugar toast
`);
